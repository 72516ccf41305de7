// SPDX-License-Identifier: Apache-2.0
// One rank of the conformance suite under mpirun: comm_mpi_conformance RANKS_PER_NODE (0: all of the machine)
#include <ATen/ops/full.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <stdexcept>

#include "comm/mpi_session.h"
#include "conformance.h"
#include "core/error.h"

namespace rekindle {
namespace {

void run_checks(MpiSession& session, const CommOptions& options) {
  const auto communicator = session.make_communicator(options);
  const int node = options.ranks_per_node > 0 ? options.ranks_per_node : communicator->world();
  if (communicator->fills_shared() != (communicator->rank() % node == 0)) {
    throw std::runtime_error("these ranks are on other nodes than they should be");
  }
  constexpr uintptr_t kLargePage = 2 << 20;
  const at::Tensor memory = communicator->allocate(kLargePage, at::kByte);
  if (reinterpret_cast<uintptr_t>(memory.const_data_ptr()) % kLargePage != 0) {
    throw std::runtime_error("no large page can lie in this memory");
  }
  for (const auto& [name, check] : conformance_checks()) {
    if (communicator->rank() == 0) std::printf("%s\n", name.c_str());
    check(*communicator);
  }
}

// Whether this rank gets an error that says what it waited for.
bool gets_an_error(MpiSession& session, const CommOptions& options, const Misuse& misuse) {
  const auto communicator = session.make_communicator(options);
  try {
    misuse(*communicator);
  } catch (const Error& error) {
    std::printf("rank %d: %s\n", session.rank(), error.what());
    return is_named(error);
  }
  return false;
}

void run_misuses(MpiSession& session, const CommOptions& options) {
  CommOptions impatient = options;
  impatient.deadline = std::chrono::milliseconds(700);
  for (const auto& [name, misuse] : conformance_misuses()) {
    if (session.rank() == 0) std::printf("%s\n", name.c_str());
    const bool good = gets_an_error(session, impatient, misuse);
    const auto communicator = session.make_communicator(options);  // the other is of no use any more
    at::Tensor bad = at::full({1}, good ? 0 : session.rank() + 1, at::kLong);
    communicator->all_reduce(bad, Communicator::Op::kMax, "misuse");
    const auto rank = bad.item<int64_t>();
    if (rank > 0)
      throw std::runtime_error(name + ": rank " + std::to_string(rank - 1) + " got no named error");
  }
}

}  // namespace
}  // namespace rekindle

int main(int argc, char** argv) {
  rekindle::MpiSession session(&argc, &argv);
  rekindle::CommOptions options;
  options.ranks_per_node = argc > 1 ? std::atoi(argv[1]) : 0;
  options.deadline = std::chrono::seconds(60);
  try {
    rekindle::run_checks(session, options);
    if (session.world() > 1) rekindle::run_misuses(session, options);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "rank %d: %s\n", session.rank(), error.what());
    session.leave(1);
  }
  return 0;
}
