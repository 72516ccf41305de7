// SPDX-License-Identifier: Apache-2.0
#include "comm/mpi_node_communicator.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <iterator>
#include <string>
#include <utility>

#include "comm/mpi_calls.h"
#include "comm/mpi_watch.h"

namespace rekindle {
namespace {

// A file descriptor that closes itself; a mapping outlives it.
class Descriptor {
 public:
  explicit Descriptor(int number) : number_(number) {}
  ~Descriptor() {
    if (number_ >= 0) close(number_);
  }
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;
  int number() const { return number_; }

 private:
  int number_;
};

// Where a process finds another's memory, and how it knows that it is that.
struct Origin {
  int64_t process, descriptor;
  uint64_t device, inode;
};

Origin origin_of(int descriptor) {
  struct stat file {};
  if (descriptor >= 0 && fstat(descriptor, &file) != 0) file = {};
  return {getpid(), descriptor, file.st_dev, file.st_ino};
}

// -1 where there is nothing, or something else: ranks in containers of their own number processes each for
// itself, and a number of one is another process in the other.
int open_at(const Origin& origin) {
  const std::string path =
      "/proc/" + std::to_string(origin.process) + "/fd/" + std::to_string(origin.descriptor);
  // Not opened before it is known: what it is may be anything.
  struct stat file {};
  if (stat(path.c_str(), &file) != 0 || file.st_dev != origin.device || file.st_ino != origin.inode)
    return -1;
  return open(path.c_str(), O_RDWR | O_CLOEXEC);
}

bool all_agree(MPI_Comm comm, bool mine) {
  int agreed = mine;
  check_mpi(MPI_Allreduce(MPI_IN_PLACE, &agreed, 1, MPI_INT, MPI_MIN, comm), "MPI_Allreduce");
  return agreed != 0;
}

constexpr int kUnshared = -1;  // in place of a descriptor: memory that this process alone has

}  // namespace

// Zeroed memory at a multiple of a large page, so that such pages can lie there: the kernel has them for
// memory that is shared where /sys/kernel/mm/transparent_hugepage/shmem_enabled says so. An update of the
// parameters takes a tenth less time with them.
struct MpiNodeCommunicator::Mapping {
  Mapping(int descriptor, size_t bytes) : reserved_bytes(bytes + kLargePage) {
    constexpr int kPrivate = MAP_PRIVATE | MAP_ANONYMOUS;
    reserved = mmap(nullptr, reserved_bytes, PROT_NONE, kPrivate | MAP_NORESERVE, -1, 0);
    if (reserved == MAP_FAILED) return;
    auto* const aligned =
        static_cast<std::byte*>(reserved) + -reinterpret_cast<uintptr_t>(reserved) % kLargePage;
    const int kind = descriptor == kUnshared ? kPrivate : MAP_SHARED;
    if (mmap(aligned, bytes, PROT_READ | PROT_WRITE, kind | MAP_FIXED, descriptor, 0) == MAP_FAILED) return;
    if (bytes >= kLargePage) madvise(aligned, bytes, MADV_HUGEPAGE);  // refused, it works as well
    address = aligned;
  }
  ~Mapping() {
    if (reserved != MAP_FAILED) munmap(reserved, reserved_bytes);
  }
  Mapping(const Mapping&) = delete;
  Mapping& operator=(const Mapping&) = delete;

  static constexpr size_t kLargePage = 2 << 20;

  void* reserved;
  size_t reserved_bytes;
  std::byte* address = nullptr;  // null where there is no memory
};

MpiNodeCommunicator::MpiNodeCommunicator(MPI_Comm comm, int rank, int world)
    : NodeCommunicator(rank, world), comm_(comm) {}

MpiNodeCommunicator::~MpiNodeCommunicator() {
  // The communicator is not freed: MPI_Comm_free is collective, and destructors do not communicate.
}

std::unique_ptr<MpiNodeCommunicator> MpiNodeCommunicator::create(MPI_Comm comm,
                                                                 SharedGroup::Setting setting) {
  int rank = 0, world = 1;
  MPI_Comm_rank(comm, &rank);
  MPI_Comm_size(comm, &world);
  std::unique_ptr<MpiNodeCommunicator> made(new MpiNodeCommunicator(comm, rank, world));
  Region group;
  if (!made->try_map(SharedGroup::bytes_for(world), true, group)) return nullptr;
  made->meet(group[rank], std::move(setting));
  return made;
}

// Makes this rank's part, tells the others where it is, maps theirs. Success is agreed before anyone goes on;
// false, everywhere, if it failed on any rank.
bool MpiNodeCommunicator::try_map(size_t bytes, bool one_for_all, Region& region) {
  if (world() == 1) {
    mappings_.push_back(std::make_unique<Mapping>(kUnshared, bytes));
    region = {mappings_.back()->address};
    return region[0] != nullptr;
  }
  const bool owner = !one_for_all || rank() == 0;
  const Descriptor mine(owner ? memfd_create("rekindle", MFD_CLOEXEC) : -1);
  bool good = !owner || (mine.number() >= 0 && ftruncate(mine.number(), static_cast<off_t>(bytes)) == 0);

  const Origin origin = origin_of(mine.number());
  std::vector<Origin> origins(world());
  check_mpi(MPI_Allgather(&origin, sizeof origin, MPI_BYTE, origins.data(), sizeof origin, MPI_BYTE, comm_),
            "MPI_Allgather");
  if (!all_agree(comm_, good)) return false;

  std::vector<std::unique_ptr<Mapping>> mapped;
  for (int r = 0; good && r < (one_for_all ? 1 : world()); ++r) {
    const Descriptor theirs(r == rank() ? -1 : open_at(origins[r]));
    const int descriptor = r == rank() ? mine.number() : theirs.number();
    good = descriptor >= 0;
    if (good) mapped.push_back(std::make_unique<Mapping>(descriptor, bytes));
    good = good && mapped.back()->address != nullptr;
  }
  if (owner && good)
    std::memset(mapped[one_for_all ? 0 : rank()]->address, 0, bytes);  // pages where their owner runs
  // Also the barrier after which owners may close: everyone has opened everything.
  if (!all_agree(comm_, good)) return false;
  region.clear();
  for (int r = 0; r < world(); ++r) region.push_back(mapped[one_for_all ? 0 : r]->address);
  std::ranges::move(mapped, std::back_inserter(mappings_));
  return true;
}

NodeCommunicator::Region MpiNodeCommunicator::map_region(size_t bytes, bool one_for_all) {
  const SharedGroup::Setting& setting = group().setting();
  const MpiWatch watch(setting.names[rank()], "memory that is shared", setting.deadline);
  Region region;
  if (try_map(bytes, one_for_all, region)) return region;
  throw Error("no memory of " + std::to_string(bytes >> 20) + " MiB to share on some rank",
              {"rank " + std::to_string(rank()), "check the memory limit of the job or container"});
}

// All have arrived here, for they have agreed about the groups.
std::unique_ptr<NodeCommunicator> MpiNodeCommunicator::split_off(const std::vector<int>& members, int index) {
  const SharedGroup::Setting& setting = group().setting();
  const MpiWatch watch(setting.names[rank()], "split", setting.deadline);
  MPI_Comm comm;
  check_mpi(MPI_Comm_split(comm_, members.front(), index, &comm), "MPI_Comm_split");
  auto made = create(comm, setting_of(members));
  if (made == nullptr)
    throw Error("no memory to share on some rank of a group", {"rank " + std::to_string(rank()), ""});
  return made;
}

}  // namespace rekindle
