// SPDX-License-Identifier: Apache-2.0
#include "worker/metrics_log.h"

namespace rekindle {
namespace {

std::string tail_of(const ReadableFile& file) {
  std::string tail(std::min<uint64_t>(file.size(), 4096), '\0');
  file.read_at(file.size() - tail.size(), std::as_writable_bytes(std::span(tail)));
  return tail;
}

// Only then is the whole file read, and written anew.
void drop_cut_off_line(FileSystem& files, const std::filesystem::path& path) {
  constexpr uint64_t kMostBytes = uint64_t{64} << 30;
  if (!files.exists(path)) return;
  if (const std::string tail = tail_of(*files.open(path)); tail.empty() || tail.back() == '\n') return;
  const std::string text = read_text(files, path, kMostBytes);
  const size_t end = text.rfind('\n');
  replace_file(files, path, std::string_view(text).substr(0, end == std::string::npos ? 0 : end + 1));
}

}  // namespace

MetricsLog::MetricsLog(FileSystem& files, const std::filesystem::path& path) {
  drop_cut_off_line(files, path);
  goes_on_ = files.exists(path) && files.open(path)->size() > 0;
  file_ = files.append_to(path);
}

void MetricsLog::write(const char* event, nlohmann::ordered_json fields) {
  if (!file_) return;
  nlohmann::ordered_json line{{"event", event}};
  line.update(fields);
  const std::string text = line.dump() + "\n";
  file_->append(std::as_bytes(std::span(text)));
}

bool ends_done(FileSystem& files, const std::filesystem::path& path) {
  if (!files.exists(path)) return false;
  std::string tail = tail_of(*files.open(path));
  if (tail.empty() || tail.back() != '\n') return false;
  tail.pop_back();
  const auto last =
      nlohmann::json::parse(tail.substr(tail.rfind('\n') + 1), nullptr, /*allow_exceptions=*/false);
  return last.is_object() && last.value("event", "") == "end" && last.value("status", "") == "done";
}

}  // namespace rekindle
