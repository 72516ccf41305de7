// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <chrono>

namespace rekindle {

struct CommOptions {
  // A wait that takes longer ends the run with the name of the wait and of the ranks that did not arrive.
  std::chrono::milliseconds deadline = std::chrono::minutes(10);
  // Ranks of one node exchange through memory that they share. False: plain MPI, for comparison and for
  // tests.
  bool node_memory = true;
  // NCCL is told of the memory that it reduces in, and then reads and writes there without copies of its own.
  // False: for comparison, and where that is suspected.
  bool register_memory = true;
  // The same sums in every run on the same machines. NVLink's switch adds in an order that varies, so it does
  // not add then.
  bool same_bits = false;
};

}  // namespace rekindle
