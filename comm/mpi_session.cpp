// SPDX-License-Identifier: Apache-2.0
#include "comm/mpi_session.h"

#include <mpi.h>

#include <cstdlib>

#include "comm/mpi_calls.h"
#include "comm/mpi_communicator.h"
#include "comm/mpi_node_communicator.h"
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

}  // namespace

MpiSession::MpiSession(int* argc, char*** argv) {
  int granted = 0;
  check_mpi(MPI_Init_thread(argc, argv, MPI_THREAD_FUNNELED, &granted), "MPI_Init_thread");
  MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_RETURN);
  MPI_Comm_rank(MPI_COMM_WORLD, &rank_);
  MPI_Comm_size(MPI_COMM_WORLD, &world_);
}

MpiSession::~MpiSession() {
  MPI_Finalize();
}

std::unique_ptr<Communicator> MpiSession::make_communicator(const CommOptions& options) {
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
  if (options.node_memory) {
    auto communicator = MpiNodeCommunicator::create(MPI_COMM_WORLD, options);
    if (communicator) return communicator;
    if (rank_ == 0) log_info("ranks share no memory: they exchange through MPI alone");
  }
  return std::make_unique<MpiCommunicator>(MPI_COMM_WORLD, options);
}

void MpiSession::leave(int exit_code) {
  // mpirun ends the others when a rank leaves without MPI_Finalize, passes its exit code on and names it.
  // After MPI_Abort it often names nobody (Open MPI 4.1.4: 7 of 25 times).
  std::_Exit(exit_code);
}

}  // namespace rekindle
