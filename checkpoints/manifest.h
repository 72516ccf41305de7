// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "core/file_system.h"

namespace rekindle {

// The format of the directory as a whole. A change that an older program would misread raises it.
inline constexpr int kCheckpointFormat = 1;

// One file of a checkpoint, as its writer knows it.
struct FileRecord {
  std::string name;  // within the directory
  uint64_t bytes = 0;
  std::string digest;  // XXH3-128

  bool operator==(const FileRecord&) const = default;
};

// manifest.json: every file with size and digest, as canonical JSON on one line (sorted keys, no spaces):
//   {"digest":D,"files":{NAME:{"bytes":N,"digest":D},...},"format":1}
// Its own digest is that of the same line without `"digest":D,`. It names the checkpoint.
class Manifest {
 public:
  // Throws bad_input for names that stand twice or could lead out of the directory, and for absurd sizes.
  explicit Manifest(std::vector<FileRecord> files, const std::string& where = "");

  // Throws bad_input for anything but the very bytes that text() gives, whichever is changed; for a manifest
  // of another format it says both versions.
  static Manifest parse(std::string_view text, const std::string& where);

  const std::vector<FileRecord>& files() const { return files_; }  // sorted by name
  const FileRecord* find(std::string_view name) const;             // null where there is none
  const std::string& digest() const { return digest_; }
  uint64_t bytes() const;  // of all files, without the manifest
  std::string text() const;

 private:
  std::vector<FileRecord> files_;
  std::string digest_;
};

// The record of a file that was just written and whose digest was taken on the way.
FileRecord record_of(FileSystem& files, const std::filesystem::path& path, std::string digest);

}  // namespace rekindle
