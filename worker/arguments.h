// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <vector>

#include "worker/bench.h"

namespace rekindle {

enum class Task { kTrain, kBenchAllReduce, kBenchStep, kBenchOptimizer, kDescribe };

// What one rank is asked to do.
struct Arguments {
  Task task = Task::kTrain;
  std::string job;  // file; none for kBenchAllReduce
  std::vector<std::string> overrides;
  bool exit_code = false;   // 3 where the parent stays
  std::vector<int> worlds;  // of kDescribe; empty: what the job says
  bool schedule = false;    // of kDescribe
  BenchOptions bench;
};

// JOB [--exit-code] [section.key=value ...], or what `rekindle bench` hands over: --bench allreduce [--bytes
// N,N] [--dtype T] [--seconds S] [--json], or --bench step|optimizer JOB [--steps K] [--launched S] [--json]
// [key=value ...], or --describe JOB [--worlds N,N] [--schedule] [key=value ...]. Throws Error (64).
Arguments parse_arguments(int argc, const char* const* argv);

}  // namespace rekindle
