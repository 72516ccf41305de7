// SPDX-License-Identifier: Apache-2.0
#include "comm/mpi_segments.h"

#include <sys/statvfs.h>

#include <cstdint>
#include <cstdlib>

namespace rekindle {
namespace {

constexpr uint64_t kSegmentBytes = 4 << 20;

uint64_t free_bytes(const char* directory) {
  struct statvfs about {};
  return statvfs(directory, &about) == 0 ? uint64_t{about.f_bavail} * about.f_frsize : 0;
}

}  // namespace

void find_room_for_segments() {
  const char* ranks = std::getenv("OMPI_COMM_WORLD_LOCAL_SIZE");
  const char* session = std::getenv("PMIX_SERVER_TMPDIR");
  if (ranks == nullptr || session == nullptr) return;
  // One more than there are ranks, for what else a segment needs. Ranks may decide differently, as each makes
  // a segment of its own and tells the others where.
  if (free_bytes("/dev/shm") >= (std::strtoull(ranks, nullptr, 10) + 1) * kSegmentBytes) return;
  setenv("OMPI_MCA_btl_vader_backing_directory", session, /*overwrite=*/0);
}

}  // namespace rekindle
