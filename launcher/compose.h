// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <filesystem>
#include <string>
#include <utility>
#include <vector>

#include "launcher/command_line.h"

namespace rekindle {

// What the machine and the user's environment bring to a launch.
struct Surroundings {
  std::filesystem::path mpirun, worker;  // absolute
  bool root = false;                     // Open MPI wants to be told twice
  std::vector<std::string> set;          // names of the environment variables that are set
};

// A program to be started without any shell. It is told its bare name: Open MPI takes a name with a path as a
// wish for --prefix, and then puts its folders in front of PATH and LD_LIBRARY_PATH of every worker.
struct Launch {
  std::filesystem::path program;
  std::vector<std::string> arguments;                            // without the program itself
  std::vector<std::pair<std::string, std::string>> environment;  // laid over the environment of this process
  bool saves = true;  // when asked to stop: then it is given the time
};

// Looks at this machine; `worker` is the one that was asked for, or empty. Throws Error (1) where mpirun or
// the worker is missing, 64 where the worker that was named is no program.
Surroundings look_around(const std::filesystem::path& worker);

// The mpirun command that runs `command` with `workers` ranks on this machine, `threads` threads each. What
// the user set in the environment (OMP_NUM_THREADS, OMPI_MCA_...) is left alone.
Launch compose_mpirun(const RunCommand& command, int workers, int threads, const Surroundings& surroundings);

// The same for a measurement; `launched` is when it was asked for, in seconds on the steady clock.
Launch compose_mpirun(const BenchCommand& command, int workers, int threads, double launched,
                      const Surroundings& surroundings);

// A worker's description of a job, without mpirun.
Launch compose_describe(const PlanCommand& command, int threads);

// The launch as one line for a POSIX shell in the same surroundings, quoted where it must be; the program by
// its bare name, as supervise() starts it, or with its path.
std::string shell_line(const Launch& launch, bool bare_name = true);

}  // namespace rekindle
