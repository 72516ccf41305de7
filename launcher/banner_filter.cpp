// SPDX-License-Identifier: Apache-2.0
#include "launcher/banner_filter.h"

#include <algorithm>
#include <array>
#include <cstdio>
#include <utility>

namespace rekindle {
namespace {

// A banner that does not close within this many lines is none of those we know.
constexpr size_t kLongestBanner = 40;

bool is_dashes(std::string_view line) {
  while (line.ends_with('\n') || line.ends_with('\r')) line.remove_suffix(1);
  return line.size() >= 70 && line.find_first_not_of('-') == std::string_view::npos;
}

bool begins_banner(std::string_view line) {
  static constexpr std::array<std::string_view, 5> kFirstWords{
      "Primary job  terminated normally, but",
      "mpirun noticed that process rank",
      "mpirun detected that one or more processes exited with non-zero status",
      "mpirun has exited due to process rank",
      "MPI_ABORT was invoked on rank",
  };
  return std::ranges::any_of(kFirstWords, [&](std::string_view words) { return line.starts_with(words); });
}

// Open MPI's lines outside of banners: that it passes on a signal of ours, and what comes of an MPI_ABORT
// banner that several ranks sent, or that Open MPI 4.1 garbled on its way.
bool is_chatter(std::string_view line) {
  const auto has = [&](std::string_view words) { return line.find(words) != std::string_view::npos; };
  return line.starts_with("mpirun: Forwarding signal") ||
         has("sent help message help-mpi-api.txt / mpi-abort") ||
         (has("ORTE_ERROR_LOG: Data unpack") && has("show_help.c"));
}

// Where `words` begin in `text`, or its end: sscanf then finds nothing.
const char* at(const std::string& text, const char* words) {
  return text.c_str() + std::min(text.find(words), text.size());
}

}  // namespace

std::string BannerFilter::take(std::string_view bytes) {
  std::string passed;
  while (!bytes.empty()) {
    const size_t end = bytes.find_first_of("\n\r");  // a progress line ends with a carriage return
    if (end == std::string_view::npos) {
      partial_ += bytes;
      break;
    }
    partial_ += bytes.substr(0, end + 1);
    bytes.remove_prefix(end + 1);
    passed += line(std::exchange(partial_, {}));
  }
  return passed;
}

std::string BannerFilter::finish() {
  return release() + std::exchange(partial_, {});
}

std::string BannerFilter::line(std::string line) {
  const bool in_banner = held_.size() > 1;
  if (in_banner) {
    held_.push_back(std::move(line));
    if (is_dashes(held_.back())) learn();
    return held_.size() > kLongestBanner ? release() : "";
  }
  if (!held_.empty() && begins_banner(line)) {
    held_.push_back(std::move(line));
    return "";
  }
  std::string passed = release();
  if (is_dashes(line)) {
    held_.push_back(std::move(line));
    return passed;
  }
  const bool dropped =
      is_chatter(line) || (dropped_ && line.find("orte_base_help_aggregate") != std::string::npos);
  dropped_ = dropped;
  return dropped ? passed : passed + line;
}

std::string BannerFilter::release() {
  std::string text;
  for (const std::string& line : held_) text += line;
  held_.clear();
  return text;
}

// Reads the banner that is held and drops it. A blank in a format stands for line breaks too: Open MPI wraps
// its lines by the length of names.
void BannerFilter::learn() {
  const std::string text = release();
  const char* process = at(text, "process rank");
  RankEnd end;
  int code = 0;
  if (std::sscanf(process, "process rank %d with PID %*d on node %*s exited on signal %d", &end.rank,
                  &end.signal) == 2) {
    // It was killed.
  } else if (std::sscanf(at(text, "MPI_ABORT"), "MPI_ABORT was invoked on rank %d", &end.rank) == 1 &&
             std::sscanf(at(text, "with errorcode"), "with errorcode %d", &code) == 1) {
    end.code = code;
  } else if (std::sscanf(at(text, "Process name:"), "Process name: [[%*d,%*d],%d] Exit code: %d", &end.rank,
                         &code) == 2) {
    end.code = code;
  } else if (std::sscanf(process, "process rank %d with PID", &end.rank) != 1) {
    return;  // it names nobody
  }
  if (!end_) end_ = end;
}

}  // namespace rekindle
