// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cerrno>
#include <chrono>
#include <limits>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "core/error.h"
#include "core/file_system.h"

namespace rekindle {

// Passes everything on to the real file system, but fails at a chosen call, and remembers what was not synced
// yet, so that power_loss() can take it away. It is as forgetful as a disk may be: what was removed is gone
// at once, what was made or renamed is there only once its directory was synced, a file's bytes once the file
// was.
class FaultyFileSystem final : public FileSystem {
 public:
  enum class Loss {
    kAll,     // every name that was not synced
    kOldest,  // only the oldest of them: a disk may reorder what no sync keeps in order
  };

  int fail_at = std::numeric_limits<int>::max();                 // the call that fails, from 1
  bool stays_down = false;                                       // and all after it
  uint64_t reads_end_at = std::numeric_limits<uint64_t>::max();  // of a file: further reads fail
  std::chrono::milliseconds sync_takes{0};                       // of a file, longer than it does
  bool flips_bytes = false;  // the first byte of whatever is appended is written wrong

  int calls() const { return static_cast<int>(log_.size()); }
  const std::vector<std::string>& log() const { return log_; }  // "sync", "rename", ...

  void power_loss(Loss loss) {
    for (const auto& [path, synced] : written_) {
      if (std::filesystem::is_regular_file(path)) std::filesystem::resize_file(path, synced);
    }
    written_.clear();
    if (loss == Loss::kOldest && pending_.size() > 1) pending_.resize(1);
    while (!pending_.empty()) {
      const Change change = pending_.back();
      pending_.pop_back();
      undo(change);
    }
  }

  std::unique_ptr<WritableFile> create(const Path& path) override {
    const std::lock_guard lock(mutex_);
    call("create", path);
    auto file = real_.create(path);
    written_[path] = 0;
    pending_.push_back({{}, path, {}});
    return std::make_unique<File>(*this, path, std::move(file));
  }
  std::unique_ptr<WritableFile> append_to(const Path& path) override {
    const std::lock_guard lock(mutex_);
    call("append_to", path);
    auto file = real_.append_to(path);
    written_[path] = std::filesystem::file_size(path);
    return std::make_unique<File>(*this, path, std::move(file));
  }
  std::unique_ptr<ReadableFile> open(const Path& path) override {
    const std::lock_guard lock(mutex_);
    call("open", path);
    return std::make_unique<Reading>(real_.open(path), path, reads_end_at);
  }
  bool exists(const Path& path) override {
    const std::lock_guard lock(mutex_);
    call("exists", path);
    return real_.exists(path);
  }
  bool is_directory(const Path& path) override {
    const std::lock_guard lock(mutex_);
    call("is_directory", path);
    return real_.is_directory(path);
  }
  std::vector<std::string> list(const Path& directory) override {
    const std::lock_guard lock(mutex_);
    call("list", directory);
    return real_.list(directory);
  }
  std::optional<std::string> read_link(const Path& path) override {
    const std::lock_guard lock(mutex_);
    call("read_link", path);
    return real_.read_link(path);
  }
  void create_directories(const Path& path) override {
    const std::lock_guard lock(mutex_);
    call("create_directories", path);
    real_.create_directories(path);
  }
  bool create_directory(const Path& path) override {
    const std::lock_guard lock(mutex_);
    call("create_directory", path);
    const bool made = real_.create_directory(path);
    if (made) pending_.push_back({{}, path, {}});
    return made;
  }
  void rename(const Path& from, const Path& to) override {
    const std::lock_guard lock(mutex_);
    call("rename", from);
    const auto old_link = real_.read_link(to);
    real_.rename(from, to);
    move_records(from, to);
    pending_.push_back({from, to, old_link});
  }
  void remove(const Path& path) override {
    const std::lock_guard lock(mutex_);
    call("remove", path);
    real_.remove(path);
    forget(path);
  }
  void remove_all(const Path& path) override {
    const std::lock_guard lock(mutex_);
    call("remove_all", path);
    real_.remove_all(path);
    forget(path);
  }
  void create_link(const Path& link, const std::string& target) override {
    const std::lock_guard lock(mutex_);
    call("create_link", link);
    real_.create_link(link, target);
    pending_.push_back({{}, link, {}});
  }
  void sync_directory(const Path& path) override {
    const std::lock_guard lock(mutex_);
    call("sync_directory", path);
    real_.sync_directory(path);
    std::erase_if(pending_, [&](const Change& change) { return change.to.parent_path() == path; });
  }
  std::unique_ptr<FileLock> try_lock(const Path& path, std::string_view note) override {
    const std::lock_guard lock(mutex_);
    call("try_lock", path);
    return real_.try_lock(path, note);
  }
  std::string lock_note(const Path& path) override {
    const std::lock_guard lock(mutex_);
    call("lock_note", path);
    return real_.lock_note(path);
  }

 private:
  // A name that its directory does not hold for sure yet: made there, or renamed to it.
  struct Change {
    Path from;  // empty: made
    Path to;
    std::optional<std::string> old_link;  // what stood under `to` before
  };

  class File final : public WritableFile {
   public:
    File(FaultyFileSystem& files, Path path, std::unique_ptr<WritableFile> real)
        : files_(files), path_(std::move(path)), real_(std::move(real)) {}
    void append(std::span<const std::byte> bytes) override {
      const std::lock_guard lock(files_.mutex_);
      files_.call("append", path_);
      std::vector<std::byte> copy(bytes.begin(), bytes.end());
      if (files_.flips_bytes && !copy.empty()) copy[0] ^= std::byte{1};
      real_->append(copy);
    }
    void sync() override {
      std::this_thread::sleep_for(files_.sync_takes);
      const std::lock_guard lock(files_.mutex_);
      files_.call("sync", path_);
      real_->sync();
      files_.written_[path_] = std::filesystem::file_size(path_);
    }
    void close() override {
      const std::lock_guard lock(files_.mutex_);
      files_.call("close", path_);
      real_->close();
    }

   private:
    FaultyFileSystem& files_;
    Path path_;
    std::unique_ptr<WritableFile> real_;
  };

  class Reading final : public ReadableFile {
   public:
    Reading(std::unique_ptr<ReadableFile> real, Path path, uint64_t end)
        : real_(std::move(real)), path_(std::move(path)), end_(end) {}
    uint64_t size() const override { return real_->size(); }
    void drop_cache() const override { real_->drop_cache(); }
    void read_at(uint64_t offset, std::span<std::byte> into) const override {
      if (offset + into.size() > end_) throw system_error("cannot read", EIO, path_.string());
      real_->read_at(offset, into);
    }

   private:
    std::unique_ptr<ReadableFile> real_;
    Path path_;
    uint64_t end_;
  };

  void call(const char* name, const Path& path) {
    log_.push_back(name);
    if (calls() == fail_at || (stays_down && calls() > fail_at)) {
      throw system_error(std::string("injected fault in ") + name, EIO, path.string());
    }
  }

  void undo(const Change& change) {
    if (change.from.empty()) {
      std::filesystem::remove_all(change.to);
    } else if (std::filesystem::symlink_status(change.to).type() != std::filesystem::file_type::not_found) {
      std::filesystem::rename(change.to, change.from);
      move_records(change.to, change.from);
      if (change.old_link) std::filesystem::create_symlink(*change.old_link, change.to);
    }
  }

  static bool is_within(const Path& path, const Path& tree) {
    return path == tree || path.string().starts_with(tree.string() + "/");
  }

  void move_records(const Path& from, const Path& to) {
    const auto moved = [&](const Path& path) {
      return is_within(path, from) ? Path(to.string() + path.string().substr(from.string().size())) : path;
    };
    std::map<Path, uint64_t> written;
    for (const auto& [path, synced] : written_) written[moved(path)] = synced;
    written_ = std::move(written);
    for (Change& change : pending_) change.to = moved(change.to);
  }

  void forget(const Path& tree) {
    std::erase_if(written_, [&](const auto& entry) { return is_within(entry.first, tree); });
    std::erase_if(pending_, [&](const Change& change) { return is_within(change.to, tree); });
  }

  FileSystem& real_ = posix_file_system();
  std::recursive_mutex mutex_;  // ranks may be threads
  std::vector<std::string> log_;
  std::map<Path, uint64_t> written_;  // bytes that are on the disk for sure
  std::vector<Change> pending_;       // in order
};

}  // namespace rekindle
