// SPDX-License-Identifier: Apache-2.0
#include "comm/mpi_session.h"

#include <mpi.h>
#include <sched.h>

#include <cstdlib>
#include <string>
#include <utility>
#include <vector>

#include "comm/mpi_calls.h"
#include "comm/mpi_cluster_communicator.h"
#include "comm/mpi_node_communicator.h"
#include "comm/mpi_segments.h"
#include "comm/mpi_watch.h"
#include "comm/nccl_communicator.h"
#include "comm/nccl_library.h"
#include "core/log.h"

namespace rekindle {
namespace {

// This rank's place among those of its node.
int place_on_node() {
  MPI_Comm node;
  check_mpi(MPI_Comm_split_type(MPI_COMM_WORLD, MPI_COMM_TYPE_SHARED, 0, MPI_INFO_NULL, &node),
            "MPI_Comm_split_type");
  int place = 0;
  MPI_Comm_rank(node, &place);
  MPI_Comm_free(&node);
  return place;
}

// What `mine` is on each rank of `comm`.
std::vector<int> ranks_of(MPI_Comm comm, int mine) {
  std::vector<int> all(size_of(comm));
  check_mpi(MPI_Allgather(&mine, 1, MPI_INT, all.data(), 1, MPI_INT, comm), "MPI_Allgather");
  return all;
}

// How many processors the ranks of `comm` may use between them: where each is bound to its own, that is all
// of these.
int processors_of(MPI_Comm comm) {
  constexpr int kMost = 1 << 14;
  std::vector<unsigned long> mask(kMost / (8 * sizeof(unsigned long)));
  auto* set = reinterpret_cast<cpu_set_t*>(mask.data());
  const size_t bytes = mask.size() * sizeof(unsigned long);
  if (sched_getaffinity(0, bytes, set) != 0) CPU_ZERO_S(bytes, set);
  check_mpi(MPI_Allreduce(MPI_IN_PLACE, mask.data(), static_cast<int>(mask.size()), MPI_UNSIGNED_LONG,
                          MPI_BOR, comm),
            "MPI_Allreduce");
  return CPU_COUNT_S(bytes, set);
}

}  // namespace

MpiSession::MpiSession(int* argc, char*** argv) {
  find_room_for_segments();
  const char* const place = std::getenv("PMIX_RANK");  // what rank this is, MPI itself knows only later
  const MpiWatch watch(place == nullptr ? 0 : std::atoi(place), "MPI_Init", CommOptions{}.deadline);
  int granted = 0;
  check_mpi(MPI_Init_thread(argc, argv, MPI_THREAD_SERIALIZED, &granted), "MPI_Init_thread");
  may_help_ = granted >= MPI_THREAD_SERIALIZED;
  MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_RETURN);
  MPI_Comm_rank(MPI_COMM_WORLD, &rank_);
  MPI_Comm_size(MPI_COMM_WORLD, &world_);
}

MpiSession::~MpiSession() {
  MPI_Finalize();
}

std::unique_ptr<Communicator> MpiSession::make_communicator(const CommOptions& options) {
  const MpiWatch watch(rank_, "start of all ranks", options.deadline);
  std::unique_ptr<Communicator> host = make_host_communicator(options);
  const int gpu = choose_gpu(*host, place_on_node(), count_gpus());
  if (gpu < 0) return host;
  if (rank_ == 0) log_info(std::to_string(world_) + " workers exchange through NCCL, one GPU each");
  if (options.same_bits) setenv("NCCL_NVLS_ENABLE", "0", /*overwrite=*/1);
  NcclFunctions functions;
  together(*host, "NCCL", [&] { functions = load_nccl(gpu); });
  const auto lost = [this](const Error& error) {
    log_error("rank " + std::to_string(rank_) + " failed: " + error.what());
    leave(static_cast<int>(error.code()));
  };
  return std::make_unique<NcclCommunicator>(std::move(functions), std::move(host), options, lost);
}

std::unique_ptr<Communicator> MpiSession::make_host_communicator(const CommOptions& options) {
  MPI_Comm machine, local;
  check_mpi(MPI_Comm_split_type(MPI_COMM_WORLD, MPI_COMM_TYPE_SHARED, rank_, MPI_INFO_NULL, &machine),
            "MPI_Comm_split_type");
  const int at = rank_in(machine), crowd = size_of(machine), limit = options.ranks_per_node;
  check_mpi(MPI_Comm_split(machine, limit > 0 ? at / limit : 0, rank_, &local), "MPI_Comm_split");
  SharedGroup::Setting setting{options.deadline, crowd};
  setting.processors = processors_of(machine);
  // Where nodes wait for each other too, who waits there knows who is missing, and speaks first.
  if (crowd < world_ || limit > 0) setting.deadline += std::chrono::seconds(1);
  MPI_Comm_free(&machine);
  setting.names = ranks_of(local, rank_);
  std::unique_ptr<NodeCommunicator> node = MpiNodeCommunicator::create(local, setting);
  int shared = node != nullptr;
  check_mpi(MPI_Allreduce(MPI_IN_PLACE, &shared, 1, MPI_INT, MPI_MIN, MPI_COMM_WORLD), "MPI_Allreduce");
  if (!shared) {
    if (rank_ == 0) log_info("ranks share no memory: they exchange by messages alone");
    check_mpi(MPI_Comm_dup(MPI_COMM_SELF, &local), "MPI_Comm_dup");
    setting.names = {rank_};
    node = MpiNodeCommunicator::create(local, setting);
    if (!node)
      throw Error("this machine has no memfd_create, or no memory left",
                  {"rank " + std::to_string(rank_), ""});
  }
  if (node->world() == world_) return node;
  MPI_Comm all;
  check_mpi(MPI_Comm_dup(MPI_COMM_WORLD, &all), "MPI_Comm_dup");
  auto messages = std::make_shared<MpiMessages>("rank " + std::to_string(rank_), options.deadline, may_help_);
  return std::make_unique<MpiClusterCommunicator>(all, std::move(node), std::move(messages));
}

void MpiSession::leave(int exit_code) {
  // mpirun ends the others when a rank leaves without MPI_Finalize, passes its exit code on and names it.
  // After MPI_Abort it often names nobody (Open MPI 4.1.4: 7 of 25 times).
  std::_Exit(exit_code);
}

}  // namespace rekindle
