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

struct CommandLine {
  std::string answer;  // of --help and --version: print it and be done; else empty
  RunCommand run;
};

// Throws Error (64) that names what is wrong and, for a slip, the nearest known word.
CommandLine parse_command_line(int argc, const char* const* argv);

}  // namespace rekindle
