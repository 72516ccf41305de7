// SPDX-License-Identifier: Apache-2.0
#include "launcher/command_line.h"

#include <CLI/CLI.hpp>
#include <algorithm>
#include <string_view>

#include "core/error.h"
#include "core/text.h"

namespace rekindle {
namespace {

// Open MPI could start no more on one machine, and a number of any length must not overflow.
constexpr size_t kMostDigits = 6;

std::string must_be_override(const std::string& text) {
  const size_t equals = text.find('=');
  if (equals != std::string::npos && equals > 0) return {};
  return "'" + text + "' is not key=value";
}

// CLI11's own check names its bounds to three hundred digits.
std::string must_be_count(const std::string& text) {
  const bool digits = text.find_first_not_of("0123456789") == std::string::npos;
  if (digits && !text.empty() && text.size() <= kMostDigits && std::stoi(text) > 0) return {};
  return "'" + text + "' is not a number of workers";
}

void add_run(CLI::App& program, RunCommand& run) {
  CLI::App* command = program.add_subcommand("run", "Train a job on this machine, one worker per rank");
  command->add_option("JOB", run.job, "The job file")->required()->type_name("");
  command->add_option("key=value", run.overrides, "Laid over the job file, as in schedule.base_lr=0.2")
      ->check(must_be_override)
      ->type_name("");
  command->add_option("-n", run.workers, "Workers; default: run.workers of the job")
      ->check(must_be_count)
      ->type_name("N");
  command->add_option("--worker", run.worker, "Your own worker; default: rekindle-worker beside this program")
      ->type_name("PATH");
  command->add_flag("--dry-run", run.dry_run, "Check the whole job, print the command and start nothing");
  command->add_flag("--exit-code", run.exit_code, "End with 3 where the parent stays or nothing is new");
}

Error usage_error(const std::string& what, std::string_view slip, const std::vector<std::string>& known,
                  const std::string& help) {
  const std::string near = nearest(slip.substr(0, slip.find('=')), known);
  const std::string hint = near.empty() ? "see `" + help + "`" : "did you mean '" + near + "'?";
  return Error(what, {.where = "", .hint = hint, .code = ExitCode::kUsage});
}

void must_begin_with_command(int argc, const char* const* argv) {
  const std::vector<std::string> commands{"run"};
  const std::string word = argc > 1 ? argv[1] : "";
  if (word.empty()) throw usage_error("a command is missing", word, commands, "rekindle --help");
  if (word[0] == '-' || std::ranges::count(commands, word) > 0) return;
  throw usage_error("there is no command '" + word + "'", word, commands, "rekindle --help");
}

// The first word that was meant as an option and is none.
std::string slip_in(int argc, const char* const* argv, const std::vector<std::string>& options) {
  for (int i = 1; i < argc; ++i) {
    const std::string word = argv[i];
    if (word.starts_with("--") && std::ranges::count(options, word) == 0) return word;
  }
  return {};
}

}  // namespace

CommandLine parse_command_line(int argc, const char* const* argv) {
  CommandLine line;
  CLI::App program("Retrains what you already have: the same model again, as data arrives.", "rekindle");
  program.set_version_flag("--version", "rekindle " REKINDLE_VERSION);
  program.require_subcommand(1);
  add_run(program, line.run);

  must_begin_with_command(argc, argv);
  try {
    program.parse(argc, argv);
  } catch (const CLI::CallForHelp&) {
    line.answer = program.help();
  } catch (const CLI::CallForVersion&) {
    line.answer = program.version() + "\n";
  } catch (const CLI::ParseError& error) {
    const std::vector<std::string> options{"--worker", "--dry-run", "--exit-code", "--help", "--version"};
    throw usage_error(error.what(), slip_in(argc, argv, options), options, "rekindle run --help");
  }
  return line;
}

}  // namespace rekindle
