// SPDX-License-Identifier: Apache-2.0
#include "launcher/scratch.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <chrono>
#include <cstdlib>
#include <string>
#include <system_error>
#include <thread>

namespace rekindle {
namespace {

namespace fs = std::filesystem;

constexpr char kPrefix[] = "rekindle-mpi-";  // short: sockets below it have names of at most 107 bytes

int open_folder(const fs::path& folder) {
  return open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
}

// Ranks may outlive mpirun for a moment and write once more.
void remove_with_all(const fs::path& folder) {
  std::error_code error;
  for (int attempt = 0; attempt < 20; ++attempt) {
    fs::remove_all(folder, error);
    if (!fs::exists(folder, error)) return;
    std::this_thread::sleep_for(std::chrono::milliseconds(100));
  }
}

// Whether it is this user's and was left behind: nobody holds its lock, and it is not so young that its
// launcher has yet to take it.
bool is_left_behind(const fs::path& folder) {
  struct stat status;
  const Descriptor descriptor(open_folder(folder));
  return descriptor.get() >= 0 && fstat(descriptor.get(), &status) == 0 && status.st_uid == geteuid() &&
         time(nullptr) - status.st_mtime > 60 && flock(descriptor.get(), LOCK_EX | LOCK_NB) == 0;
}

void sweep(const fs::path& parent) {
  std::error_code error;
  for (fs::directory_iterator entry(parent, error), end; entry != end; entry.increment(error)) {
    if (entry->path().filename().string().starts_with(kPrefix) && is_left_behind(*entry))
      remove_with_all(entry->path());
    if (error) return;
  }
}

}  // namespace

Scratch::Scratch() {
  std::error_code error;
  const fs::path parent = fs::temp_directory_path(error);
  if (error) return;
  sweep(parent);
  std::string name = (parent / kPrefix).string() + "XXXXXX";
  if (mkdtemp(name.data()) == nullptr) return;
  folder_ = name;
  lock_.reset(open_folder(folder_));
  flock(lock_.get(), LOCK_EX | LOCK_NB);
}

Scratch::~Scratch() {
  if (!folder_.empty()) remove_with_all(folder_);
}

Launch Scratch::apply_to(const Launch& launch) const {
  Launch with = launch;
  if (folder_.empty()) return with;
  for (const char* name : {"OMPI_MCA_orte_tmpdir_base", "OMPI_MCA_btl_vader_backing_directory"}) {
    if (std::getenv(name) == nullptr) with.environment.emplace_back(name, folder_.string());
  }
  return with;
}

}  // namespace rekindle
