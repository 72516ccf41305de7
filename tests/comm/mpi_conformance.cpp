// SPDX-License-Identifier: Apache-2.0
// One rank of the conformance suite under mpirun: comm_mpi_conformance shared|plain
#include <cstdio>
#include <cstring>

#include "comm/mpi_session.h"
#include "conformance.h"

int main(int argc, char** argv) {
  rekindle::MpiSession session(&argc, &argv);
  const bool shared = argc > 1 && std::strcmp(argv[1], "shared") == 0;
  rekindle::CommOptions options;
  options.node_memory = shared;
  options.deadline = std::chrono::seconds(60);
  try {
    const auto communicator = session.make_communicator(options);
    if (communicator->rank() > 0 && communicator->fills_shared() == shared) {
      throw std::runtime_error("these ranks should exchange otherwise");
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
