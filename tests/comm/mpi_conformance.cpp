// SPDX-License-Identifier: Apache-2.0
// One rank of the conformance suite under mpirun: comm_mpi_conformance RANKS_PER_NODE (0: all of the machine)
#include <cstdio>
#include <cstdlib>
#include <stdexcept>

#include "comm/mpi_session.h"
#include "conformance.h"

int main(int argc, char** argv) {
  rekindle::MpiSession session(&argc, &argv);
  rekindle::CommOptions options;
  options.ranks_per_node = argc > 1 ? std::atoi(argv[1]) : 0;
  options.deadline = std::chrono::seconds(60);
  try {
    const auto communicator = session.make_communicator(options);
    const int node = options.ranks_per_node > 0 ? options.ranks_per_node : communicator->world();
    if (communicator->fills_shared() != (communicator->rank() % node == 0)) {
      throw std::runtime_error("these ranks are on other nodes than they should be");
    }
    for (const auto& [name, check] : rekindle::conformance_checks()) {
      if (communicator->rank() == 0) std::printf("%s\n", name.c_str());
      check(*communicator);
    }
  } catch (const std::exception& error) {
    std::fprintf(stderr, "rank %d: %s\n", session.rank(), error.what());
    session.leave(1);
  }
  return 0;
}
