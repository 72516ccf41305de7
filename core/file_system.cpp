// SPDX-License-Identifier: Apache-2.0
#include "core/file_system.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <utility>

#include "core/digest.h"
#include "core/error.h"

namespace rekindle {
namespace {

using Path = FileSystem::Path;

class Descriptor {
 public:
  Descriptor(const Path& path, int flags, const char* purpose) : path_(path) {
    do {
      number_ = ::open(path.c_str(), flags | O_CLOEXEC, 0666);
    } while (number_ < 0 && errno == EINTR);
    if (number_ < 0) fail(purpose);
  }
  ~Descriptor() {
    if (number_ >= 0) ::close(number_);
  }
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;

  int number() const { return number_; }
  const Path& path() const { return path_; }

  [[noreturn]] void fail(const char* what, int error_number = errno) const {
    throw system_error(what, error_number, path_.string());
  }

  void write(std::span<const std::byte> bytes) const {
    while (!bytes.empty()) {
      const ssize_t written = ::write(number_, bytes.data(), bytes.size());
      if (written < 0 && errno == EINTR) continue;
      if (written < 0) fail("cannot write");
      if (written == 0) fail("cannot write", EIO);
      bytes = bytes.subspan(static_cast<size_t>(written));
    }
  }

  // Interrupted or not, a failed fsync is final: the kernel may have dropped the pages that it could not
  // write.
  void sync() const {
    if (::fsync(number_) != 0) fail("cannot write to the disk (fsync)");
  }

  void close() {
    const int number = std::exchange(number_, -1);
    if (number >= 0 && ::close(number) != 0 && errno != EINTR) fail("cannot close");
  }

 private:
  Path path_;
  int number_ = -1;
};

class PosixWritableFile final : public WritableFile {
 public:
  PosixWritableFile(const Path& path, int flags) : file_(path, O_WRONLY | O_CREAT | flags, "cannot create") {}
  void append(std::span<const std::byte> bytes) override { file_.write(bytes); }
  void sync() override { file_.sync(); }
  void close() override { file_.close(); }

 private:
  Descriptor file_;
};

class PosixReadableFile final : public ReadableFile {
 public:
  // O_NONBLOCK, so that a pipe under this name is refused below and does not wait for a writer.
  explicit PosixReadableFile(const Path& path) : file_(path, O_RDONLY | O_NONBLOCK, "cannot open") {
    struct stat status {};
    if (::fstat(file_.number(), &status) != 0) file_.fail("cannot open");
    if (S_ISDIR(status.st_mode)) file_.fail("cannot open", EISDIR);
    if (!S_ISREG(status.st_mode)) throw bad_input("not a regular file", path.string());
    size_ = static_cast<uint64_t>(status.st_size);
  }

  uint64_t size() const override { return size_; }

  void read_at(uint64_t offset, std::span<std::byte> into) const override {
    while (!into.empty()) {
      const ssize_t count = ::pread(file_.number(), into.data(), into.size(), static_cast<off_t>(offset));
      if (count < 0 && errno == EINTR) continue;
      if (count < 0) file_.fail("cannot read");
      if (count == 0) {
        throw bad_input("the file ends at byte " + std::to_string(offset) + ", before " +
                            std::to_string(into.size()) + " more that are needed",
                        file_.path().string());
      }
      offset += static_cast<uint64_t>(count);
      into = into.subspan(static_cast<size_t>(count));
    }
  }

  void drop_cache() const override {
    const int error_number = ::posix_fadvise(file_.number(), 0, 0, POSIX_FADV_DONTNEED);
    if (error_number != 0) file_.fail("cannot drop the file from the page cache", error_number);
  }

 private:
  Descriptor file_;
  uint64_t size_ = 0;
};

class PosixFileLock final : public FileLock {
 public:
  explicit PosixFileLock(const Path& path) : file_(path, O_RDWR | O_CREAT, "cannot open the lock file") {}

  bool take(std::string_view note) {
    int result = 0;
    do {
      result = ::flock(file_.number(), LOCK_EX | LOCK_NB);
    } while (result != 0 && errno == EINTR);
    if (result != 0 && errno == EWOULDBLOCK) return false;
    if (result != 0) file_.fail("cannot lock");
    if (::ftruncate(file_.number(), 0) != 0) file_.fail("cannot write");
    file_.write(std::as_bytes(std::span(note)));
    return true;
  }

 private:
  Descriptor file_;
};

// What stands at a path, or none.
std::optional<struct stat> status_of(const Path& path) {
  struct stat status {};
  if (::stat(path.c_str(), &status) == 0) return status;
  if (errno == ENOENT || errno == ENOTDIR) return std::nullopt;
  throw system_error("cannot look up", errno, path.string());
}

class PosixFileSystem final : public FileSystem {
 public:
  std::unique_ptr<WritableFile> create(const Path& path) override {
    return std::make_unique<PosixWritableFile>(path, O_TRUNC);
  }
  std::unique_ptr<WritableFile> append_to(const Path& path) override {
    return std::make_unique<PosixWritableFile>(path, O_APPEND);
  }
  std::unique_ptr<ReadableFile> open(const Path& path) override {
    return std::make_unique<PosixReadableFile>(path);
  }

  bool exists(const Path& path) override { return status_of(path).has_value(); }
  bool is_directory(const Path& path) override {
    const auto status = status_of(path);
    return status && S_ISDIR(status->st_mode);
  }

  std::vector<std::string> list(const Path& directory) override {
    std::vector<std::string> names;
    std::error_code error;
    std::filesystem::directory_iterator entry(directory, error);
    for (; !error && entry != std::filesystem::directory_iterator(); entry.increment(error)) {
      names.push_back(entry->path().filename().string());
    }
    check(error, "cannot list", directory);
    std::sort(names.begin(), names.end());
    return names;
  }

  std::optional<std::string> read_link(const Path& path) override {
    std::error_code error;
    const Path target = std::filesystem::read_symlink(path, error);
    if (!error) return target.string();
    if (error.value() == EINVAL || error.value() == ENOENT || error.value() == ENOTDIR) return std::nullopt;
    throw system_error("cannot read the link", error.value(), path.string());
  }

  void create_directories(const Path& path) override {
    std::error_code error;
    std::filesystem::create_directories(path, error);
    check(error, "cannot create the directory", path);
  }
  bool create_directory(const Path& path) override {
    if (::mkdir(path.c_str(), 0777) == 0) return true;
    const int error_number = errno;
    if (error_number == EEXIST && is_directory(path)) return false;
    throw system_error("cannot create the directory", error_number, path.string());
  }
  void rename(const Path& from, const Path& to) override {
    if (::rename(from.c_str(), to.c_str()) == 0) return;
    throw system_error("cannot rename to " + to.string(), errno, from.string());
  }
  void remove(const Path& path) override {
    if (::unlink(path.c_str()) == 0 || errno == ENOENT) return;
    throw system_error("cannot remove", errno, path.string());
  }
  void remove_all(const Path& path) override {
    std::error_code error;
    std::filesystem::remove_all(path, error);
    check(error, "cannot remove", path);
  }
  void create_link(const Path& link, const std::string& target) override {
    if (::symlink(target.c_str(), link.c_str()) == 0) return;
    throw system_error("cannot create the link", errno, link.string());
  }
  void sync_directory(const Path& path) override {
    Descriptor directory(path, O_RDONLY | O_DIRECTORY, "cannot open the directory");
    directory.sync();
    directory.close();
  }

  std::unique_ptr<FileLock> try_lock(const Path& path, std::string_view note) override {
    auto lock = std::make_unique<PosixFileLock>(path);
    if (!lock->take(note)) return nullptr;
    return lock;
  }
  std::string lock_note(const Path& path) override { return exists(path) ? read_text(*this, path) : ""; }

 private:
  static void check(const std::error_code& error, const char* what, const Path& path) {
    if (error) throw system_error(what, error.value(), path.string());
  }
};

Path parent_of(const Path& path) {
  return path.has_parent_path() ? path.parent_path() : Path(".");
}

Path temporary_beside(const Path& path) {
  return parent_of(path) / ("." + path.filename().string() + ".tmp");
}

// Runs `work`; if it throws, takes `temporary` away as far as that goes and passes the error on.
template <typename Work>
void or_remove(FileSystem& files, const Path& temporary, Work work) {
  try {
    work();
  } catch (const Error&) {
    try {
      files.remove(temporary);
    } catch (const Error&) {  // the first error is the one that counts
    }
    throw;
  }
}

}  // namespace

FileSystem& posix_file_system() {
  static PosixFileSystem files;
  return files;
}

std::string read_text(FileSystem& files, const Path& path, uint64_t most_bytes) {
  const auto file = files.open(path);
  if (file->size() > most_bytes) {
    throw bad_input("the file has " + std::to_string(file->size()) + " bytes, more than the " +
                        std::to_string(most_bytes) + " that are read here",
                    path.string());
  }
  std::string text(file->size(), '\0');
  file->read_at(0, std::as_writable_bytes(std::span(text)));
  return text;
}

void write_synced(FileSystem& files, const Path& path, std::string_view text) {
  const auto file = files.create(path);
  file->append(std::as_bytes(std::span(text)));
  file->sync();
  file->close();
}

void replace_file(FileSystem& files, const Path& path, std::string_view text) {
  const Path temporary = temporary_beside(path);
  or_remove(files, temporary, [&] {
    write_synced(files, temporary, text);
    files.rename(temporary, path);
  });
  files.sync_directory(parent_of(path));
}

void replace_link(FileSystem& files, const Path& link, const std::string& target) {
  const Path temporary = temporary_beside(link);
  files.remove(temporary);  // of a process that ended between the next two calls
  or_remove(files, temporary, [&] {
    files.create_link(temporary, target);
    files.rename(temporary, link);
  });
  files.sync_directory(parent_of(link));
}

std::string digest_of_file(FileSystem& files, const Path& path, bool from_disk) {
  const auto file = files.open(path);
  if (from_disk) file->drop_cache();
  Digest digest;
  std::vector<std::byte> chunk(1 << 20);
  for (uint64_t offset = 0; offset < file->size(); offset += chunk.size()) {
    const auto part = std::span(chunk).first(std::min<uint64_t>(chunk.size(), file->size() - offset));
    file->read_at(offset, part);
    digest.update(part);
  }
  return digest.hex();
}

}  // namespace rekindle
