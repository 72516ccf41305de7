// SPDX-License-Identifier: Apache-2.0
#include "comm/mpi_session.h"

#include <mpi.h>

#include <cstdlib>

#include "comm/mpi_calls.h"
#include "comm/mpi_communicator.h"
#include "comm/mpi_node_communicator.h"
#include "comm/mpi_segments.h"
#include "core/log.h"

namespace rekindle {

MpiSession::MpiSession(int* argc, char*** argv) {
  find_room_for_segments();
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
