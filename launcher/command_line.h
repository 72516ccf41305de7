// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <filesystem>
#include <optional>
#include <string>
#include <vector>

namespace rekindle {

// `rekindle run JOB ...`, as it was typed.
struct RunCommand {
  std::filesystem::path job;
  std::optional<int> workers;    // -n; not given: the job says
  std::filesystem::path worker;  // --worker; empty: the one beside this program
  bool dry_run = false;
  bool exit_code = false;              // the worker's, passed through
  std::vector<std::string> overrides;  // key=value
};

// `rekindle bench allreduce ...` or `rekindle bench step|optimizer JOB ...`, as it was typed.
struct BenchCommand {
  std::string what;                                  // "allreduce", "step", "optimizer"
  std::filesystem::path job;                         // not of allreduce
  std::optional<int> workers;                        // -n; not given: the job says
  std::filesystem::path worker;                      // --worker
  std::optional<std::string> bytes, dtype, seconds;  // of allreduce; not given: the worker's defaults
  std::optional<std::string> steps;                  // not of allreduce
  bool json = false;
  std::vector<std::string> overrides;  // not of allreduce
};

// `rekindle plan JOB ...`, as it was typed.
struct PlanCommand {
  std::filesystem::path job;
  std::string workers;           // --workers 1,8,64; empty: the job says
  std::filesystem::path worker;  // --worker
  bool json = false;
  bool schedule = false;
  bool plot = false;
  std::filesystem::path svg;  // --svg; empty: none
  std::vector<std::string> overrides;
};

// `rekindle inspect|verify|lineage PATH` or `rekindle diff A B`, as it was typed.
struct LookCommand {
  std::string what;
  std::filesystem::path path, other;  // `other` of diff
  bool json = false;
};

struct CommandLine {
  std::string answer;  // of --help and --version: print it and be done; else empty
  RunCommand run;
  std::optional<BenchCommand> bench;  // where one of these is there, nothing is run
  std::optional<PlanCommand> plan;
  std::optional<LookCommand> look;
};

// Throws Error (64) that names what is wrong and, for a slip, the nearest known word.
CommandLine parse_command_line(int argc, const char* const* argv);

}  // namespace rekindle
