// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <chrono>

namespace rekindle {

struct CommOptions {
  // A wait that takes longer ends the run with the name of the wait and of the ranks that did not arrive.
  std::chrono::milliseconds deadline = std::chrono::minutes(10);
  // How many ranks of a machine exchange through memory that they share; 0: all. Fewer make several nodes of
  // one machine, and 1 leaves them messages alone: for tests, and for comparison.
  int ranks_per_node = 0;
  // NCCL is told of the memory that it reduces in, and then reads and writes there without copies of its own.
  // False: for comparison, and where that is suspected.
  bool register_memory = true;
  // The same sums in every run on the same machines. NVLink's switch adds in an order that varies, so it does
  // not add then.
  bool same_bits = false;
};

}  // namespace rekindle
