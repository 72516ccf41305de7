// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "comm/communicator.h"
#include "job/job.h"

namespace rekindle {

struct BenchOptions {
  // Of all-reduce.
  std::vector<int64_t> bytes{4 << 10, 64 << 10, 1 << 20, 4 << 20, 25 << 20, 100 << 20, 400 << 20};
  std::string dtype = "float32";
  double seconds = 0.5;  // about what is spent on each size and operation

  // Of a step, and of its optimizer.
  int64_t steps = 100;             // that are timed; a fifth as many go before, untimed
  std::optional<double> launched;  // when the command began, on the steady clock of rank 0's machine; none:
                                   // the first step is timed from the call on

  bool json = false;  // else a table for people
};

// All print to standard output on rank 0 and are collective. Times are those of the slowest rank.

// How long it takes to sum memory that the communicator allocated over all ranks, where it lies, and, as the
// limit, all ranks to copy as many bytes each at once: the median over repetitions. Throws Error for sizes
// that hold no whole number of elements (64), and where a sum is wrong.
void bench_all_reduce(Communicator& communicator, const BenchOptions& options);

// How long the steps of a job take: its own loop, data and model, from fresh weights, without evaluation, log
// or checkpoint. Writes nothing.
void bench_step(Communicator& communicator, const Job& job, const BenchOptions& options);

// How long the optimizer's part of such a step takes, from the summed gradient to the moment when all ranks
// have all new parameters: the median over `options.steps`.
void bench_optimizer(Communicator& communicator, const Job& job, const BenchOptions& options);

}  // namespace rekindle
