// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace rekindle {

// A file being written. What was not synced may be lost with the machine's power. Not copied, not moved.
class WritableFile {
 public:
  virtual ~WritableFile() = default;  // closes; never throws, so call close() first
  virtual void append(std::span<const std::byte> bytes) = 0;
  virtual void sync() = 0;  // to the disk; a failure is final, never try again
  virtual void close() = 0;
};

// A file being read, at any offset.
class ReadableFile {
 public:
  virtual ~ReadableFile() = default;
  virtual uint64_t size() const = 0;
  virtual void read_at(uint64_t offset, std::span<std::byte> into) const = 0;  // all of it, or throws
  virtual void drop_cache() const = 0;  // so that the next read comes from the disk
};

// Holds an advisory lock until it is destroyed; the kernel drops it when the process ends, however it ends.
class FileLock {
 public:
  virtual ~FileLock() = default;
};

// The seam through which everything durable is written, so that tests can inject faults at any call.
// Paths are absolute or relative to the working directory. Every call throws Error with path and reason.
class FileSystem {
 public:
  using Path = std::filesystem::path;

  virtual ~FileSystem() = default;

  virtual std::unique_ptr<WritableFile> create(const Path& path) = 0;     // new or emptied
  virtual std::unique_ptr<WritableFile> append_to(const Path& path) = 0;  // new or at its end
  virtual std::unique_ptr<ReadableFile> open(const Path& path) = 0;

  virtual bool exists(const Path& path) = 0;                           // follows links
  virtual bool is_directory(const Path& path) = 0;                     // follows links
  virtual std::vector<std::string> list(const Path& directory) = 0;    // names, sorted; without . and ..
  virtual std::optional<std::string> read_link(const Path& path) = 0;  // none where it is not a link

  virtual void create_directories(const Path& path) = 0;
  virtual bool create_directory(const Path& path) = 0;  // false where it is there already
  virtual void rename(const Path& from, const Path& to) = 0;
  virtual void remove(const Path& path) = 0;      // a file or a link; fine if gone
  virtual void remove_all(const Path& path) = 0;  // a tree; fine if gone
  virtual void create_link(const Path& link, const std::string& target) = 0;
  virtual void sync_directory(const Path& path) = 0;

  // Takes the lock of `path` (made if missing), or returns none where another process or object holds it.
  virtual std::unique_ptr<FileLock> try_lock(const Path& path, std::string_view note) = 0;
  // What the holder wrote as its note; empty where there is none.
  virtual std::string lock_note(const Path& path) = 0;
};

FileSystem& posix_file_system();  // stateless, lives as long as the program

// Composed of the calls above, so that they meet the same faults.
std::string read_text(FileSystem& files, const FileSystem::Path& path, uint64_t most_bytes = 64u << 20);
void write_synced(FileSystem& files, const FileSystem::Path& path, std::string_view text);
void replace_file(FileSystem& files, const FileSystem::Path& path,
                  std::string_view text);  // write, sync, rename, sync
void replace_link(FileSystem& files, const FileSystem::Path& link,
                  const std::string& target);  // atomically, synced
std::string digest_of_file(FileSystem& files, const FileSystem::Path& path, bool from_disk = false);

}  // namespace rekindle
