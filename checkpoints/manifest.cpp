// SPDX-License-Identifier: Apache-2.0
#include "checkpoints/manifest.h"

#include <algorithm>

#include "checkpoints/fields.h"
#include "core/digest.h"
#include "core/error.h"
#include "core/json.h"
#include "core/names.h"

namespace rekindle {
namespace {

constexpr uint64_t kMostBytes = uint64_t{1} << 50;  // a PiB in one file: nobody meant that

// A manifest may come from anywhere, and its names are opened: only plain ones, no folders, nothing hidden.
bool is_plain(const std::string& name) {
  const auto is_allowed = [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '.' ||
           c == '-' || c == '_';
  };
  return !name.empty() && name.size() <= 200 && name.front() != '.' && std::ranges::all_of(name, is_allowed);
}

void check(const std::vector<FileRecord>& sorted, const std::string& where) {
  for (size_t i = 0; i < sorted.size(); ++i) {
    const FileRecord& file = sorted[i];
    const auto reject = [&](const char* reason) {
      throw bad_input("bad manifest: file " + nlohmann::json(file.name).dump() + ": " + reason, where);
    };
    if (!is_plain(file.name)) reject("a name of letters, digits and . - _ is expected");
    if (file.name == names::kManifest) reject("a manifest does not list itself");
    if (i > 0 && sorted[i - 1].name == file.name) reject("it stands twice");
    if (file.bytes > kMostBytes) reject("it claims more than 2^50 bytes");
    if (!is_digest(file.digest)) reject("its digest is not 32 hexadecimal digits");
  }
}

nlohmann::json body_of(const std::vector<FileRecord>& files) {
  nlohmann::json list = nlohmann::json::object();
  for (const FileRecord& file : files) list[file.name] = {{"bytes", file.bytes}, {"digest", file.digest}};
  return {{"files", list}, {"format", kCheckpointFormat}};
}

void check_format(int64_t format, const std::string& where) {
  if (format == kCheckpointFormat) return;
  throw bad_input("the checkpoint has format " + std::to_string(format) + ", this program reads format " +
                      std::to_string(kCheckpointFormat),
                  where,
                  format > kCheckpointFormat ? "a newer version of Rekindle wrote it: use that one"
                                             : "an older version of Rekindle wrote it: use that one");
}

}  // namespace

Manifest::Manifest(std::vector<FileRecord> files, const std::string& where) : files_(std::move(files)) {
  std::ranges::sort(files_, {}, &FileRecord::name);
  check(files_, where);
  digest_ = digest_of(body_of(files_).dump());
}

Manifest Manifest::parse(std::string_view text, const std::string& where) {
  const nlohmann::json json = parse_json(text, where, 3);
  const Fields fields(json, where);
  check_format(fields.count("format"), where);  // before all else: another format may have other keys
  std::vector<FileRecord> files;
  for (const auto& [name, value] : fields.object("files").items()) {
    const Fields file(value, where);
    files.push_back({name, file.bits("bytes"), file.digest("digest")});
  }
  Manifest manifest(std::move(files), where);
  if (manifest.text() != text) {
    throw bad_input("the manifest is damaged: its content does not have the digest that it carries", where,
                    "take another checkpoint; this one cannot be trusted");
  }
  return manifest;
}

const FileRecord* Manifest::find(std::string_view name) const {
  const auto file = std::ranges::find(files_, name, &FileRecord::name);
  return file == files_.end() ? nullptr : &*file;
}

uint64_t Manifest::bytes() const {
  uint64_t sum = 0;
  for (const FileRecord& file : files_) sum += file.bytes;
  return sum;
}

std::string Manifest::text() const {
  nlohmann::json json = body_of(files_);
  json["digest"] = digest_;
  return json.dump();
}

FileRecord record_of(FileSystem& files, const std::filesystem::path& path, std::string digest) {
  return {path.filename().string(), files.open(path)->size(), std::move(digest)};
}

}  // namespace rekindle
