// SPDX-License-Identifier: Apache-2.0
#include "launcher/command_line.h"

#include <CLI/CLI.hpp>
#include <algorithm>
#include <sstream>
#include <string_view>

#include "core/error.h"
#include "core/text.h"

namespace rekindle {
namespace {

// Open MPI could start no more on one machine, and a number of any length must not overflow.
constexpr size_t kMostDigits = 6;
constexpr size_t kMostByteDigits = 15;

std::string must_be_override(const std::string& text) {
  const size_t equals = text.find('=');
  if (equals != std::string::npos && equals > 0) return {};
  return "'" + text + "' is not key=value";
}

// CLI11's own check names its bounds to three hundred digits.
auto must_count(const std::string& what) {
  return [what](const std::string& text) -> std::string {
    const bool digits = text.find_first_not_of("0123456789") == std::string::npos;
    if (digits && !text.empty() && text.size() <= kMostDigits && std::stoi(text) > 0) return {};
    return "'" + text + "' is not a number of " + what;
  };
}

void add_run(CLI::App& program, RunCommand& run) {
  CLI::App* command = program.add_subcommand("run", "Train a job on this machine, one worker per rank");
  command->add_option("JOB", run.job, "The job file")->required()->type_name("");
  command->add_option("key=value", run.overrides, "Laid over the job file, as in schedule.base_lr=0.2")
      ->check(must_be_override)
      ->type_name("");
  command->add_option("-n", run.workers, "Workers; default: run.workers of the job")
      ->check(must_count("workers"))
      ->type_name("N");
  command->add_option("--worker", run.worker, "Your own worker; default: rekindle-worker beside this program")
      ->type_name("PATH");
  command->add_flag("--dry-run", run.dry_run, "Check the job file, print the command and start nothing");
  command->add_flag("--exit-code", run.exit_code, "End with 3 where the parent stays");
}

std::string must_be_above_zero(const std::string& text) {
  double value = 0;
  return CLI::detail::lexical_cast(text, value) && value > 0 ? "" : "'" + text + "' is not a number above 0";
}

std::string must_be_sizes(const std::string& text) {
  std::istringstream sizes(text + ",x");  // so that an empty last one is seen
  std::string size;
  while (std::getline(sizes, size, ',') && !sizes.eof()) {
    const bool digits = !size.empty() && size.find_first_not_of("0123456789") == std::string::npos;
    if (!digits || size.size() > kMostByteDigits || std::stoll(size) == 0)
      return "'" + text + "' is not a list of sizes such as 4096,65536";
  }
  return {};
}

// As must_be_sizes, of numbers that a machine could have.
std::string must_be_worlds(const std::string& text) {
  if (!must_be_sizes(text).empty() || text.size() > 100) return "'" + text + "' is not a list such as 1,8,64";
  std::istringstream worlds(text);
  for (std::string world; std::getline(worlds, world, ',');) {
    if (world.size() > kMostDigits) return "'" + world + "' is not a number of workers";
  }
  return {};
}

void add_bench_all_reduce(CLI::App& bench, BenchCommand& asked) {
  CLI::App* command = bench.add_subcommand(
      "allreduce", "Sum memory over all workers, and copy as many bytes as the limit of what can be");
  command->add_option("-n", asked.workers, "Workers")
      ->check(must_count("workers"))
      ->required()
      ->type_name("N");
  command->add_option("--bytes", asked.bytes, "Sizes; default: from 4 KiB to 400 MiB")
      ->check(must_be_sizes)
      ->type_name("BYTES,...");
  command->add_option("--dtype", asked.dtype, "Of the elements; default: float32")
      ->check(CLI::IsMember({"float32", "float64", "bfloat16", "float16", "int64"}))
      ->type_name("TYPE");
  command->add_option("--seconds", asked.seconds, "About how long, for each size and operation; default: 0.5")
      ->check(must_be_above_zero)
      ->type_name("S");
}

void add_bench_of_job(CLI::App& bench, BenchCommand& asked, const char* name, const char* meaning) {
  CLI::App* command = bench.add_subcommand(name, meaning);
  command->add_option("JOB", asked.job, "The job file")->required()->type_name("");
  command->add_option("key=value", asked.overrides, "Laid over the job file")
      ->check(must_be_override)
      ->type_name("");
  command->add_option("-n", asked.workers, "Workers; default: run.workers of the job")
      ->check(must_count("workers"))
      ->type_name("N");
  command->add_option("--steps", asked.steps, "Steps that are timed; default: 100")
      ->check(must_count("steps"))
      ->type_name("K");
}

// Returns what was added, to be asked which of them was meant.
std::vector<CLI::App*> add_bench(CLI::App& program, BenchCommand& asked) {
  CLI::App* bench = program.add_subcommand("bench", "Measure this machine and a job on it");
  bench->require_subcommand(1);
  add_bench_all_reduce(*bench, asked);
  add_bench_of_job(
      *bench, asked, "step",
      "Train some steps of a job from fresh weights; nothing is written, also where the job says so");
  add_bench_of_job(*bench, asked, "optimizer",
                   "The optimizer's part of such a step, from the summed gradient on");
  const std::vector<CLI::App*> commands = bench->get_subcommands({});
  for (CLI::App* command : commands) {
    command
        ->add_option("--worker", asked.worker,
                     "Your own worker; default: rekindle-worker beside this program")
        ->type_name("PATH");
    command->add_flag("--json", asked.json, "JSON instead of a table");
  }
  return commands;
}

void add_worker_option(CLI::App& command, std::filesystem::path& worker) {
  command.add_option("--worker", worker, "Your own worker; default: rekindle-worker beside this program")
      ->type_name("PATH");
}

CLI::App* add_plan(CLI::App& program, PlanCommand& plan) {
  CLI::App* command = program.add_subcommand(
      "plan", "What a job would be on so many workers, and what a warm start would load; nothing is started");
  command->add_option("JOB", plan.job, "The job file")->required()->type_name("");
  command->add_option("key=value", plan.overrides, "Laid over the job file")
      ->check(must_be_override)
      ->type_name("");
  command
      ->add_option("--workers", plan.workers,
                   "Numbers of workers, as in 1,8,64; default: run.workers of the job")
      ->check(must_be_worlds)
      ->type_name("N,...");
  add_worker_option(*command, plan.worker);
  CLI::Option* json = command->add_flag("--json", plan.json, "JSON instead of a table");
  command->add_flag("--schedule", plan.schedule, "With --json: step, samples and learning rate of every step")
      ->needs(json);
  command->add_flag("--plot", plan.plot, "Draw the learning rate over the run")->excludes(json);
  command->add_option("--svg", plan.svg, "Draw it into this file")->type_name("FILE");
  return command;
}

// Returns what was added, to be asked which of them was meant.
std::vector<CLI::App*> add_looks(CLI::App& program, LookCommand& look) {
  const std::pair<const char*, const char*> one_path[] = {
      {"inspect", "What a checkpoint, run, line or file of weights is"},
      {"verify",
       "Read every byte of a checkpoint, or of all of a run or line: ends with 1 where one is damaged"},
      {"lineage", "The tree of models that were trained from one another"}};
  std::vector<CLI::App*> commands;
  for (const auto& [name, meaning] : one_path) {
    commands.push_back(program.add_subcommand(name, meaning));
    commands.back()->add_option("PATH", look.path, "A checkpoint, run or line")->required()->type_name("");
  }
  commands.push_back(
      program.add_subcommand("diff", "What changed from one model to another: job, data, tensors"));
  commands.back()
      ->add_option("A", look.path, "A checkpoint, run, line or file of weights")
      ->required()
      ->type_name("");
  commands.back()->add_option("B", look.other, "The same")->required()->type_name("");
  for (CLI::App* command : commands) command->add_flag("--json", look.json, "JSON instead of a table");
  return commands;
}

Error usage_error(const std::string& what, std::string_view slip, const std::vector<std::string>& known,
                  const std::string& help) {
  const std::string near = nearest(slip.substr(0, slip.find('=')), known);
  const std::string hint = near.empty() ? "see `" + help + "`" : "did you mean '" + near + "'?";
  return Error(what, {.where = "", .hint = hint, .code = ExitCode::kUsage});
}

// `word` stands where one of `known` should.
void must_be_one_of(const std::string& word, const std::vector<std::string>& known, const std::string& what,
                    const std::string& help) {
  if (word.empty()) throw usage_error("a " + what + " is missing", word, known, help);
  if (word[0] == '-' || std::ranges::count(known, word) > 0) return;
  throw usage_error("there is no " + what + " '" + word + "'", word, known, help);
}

void must_begin_with_command(int argc, const char* const* argv) {
  const auto word = [&](int i) { return std::string(argc > i ? argv[i] : ""); };
  must_be_one_of(word(1), {"run", "plan", "inspect", "verify", "lineage", "diff", "bench"}, "command",
                 "rekindle --help");
  if (word(1) == "bench")
    must_be_one_of(word(2), {"allreduce", "step", "optimizer"}, "bench", "rekindle bench --help");
}

// The first word that was meant as an option and is none.
std::string slip_in(int argc, const char* const* argv, const std::vector<std::string>& options) {
  for (int i = 1; i < argc; ++i) {
    const std::string word = argv[i];
    if (word.starts_with("--") && std::ranges::count(options, word) == 0) return word;
  }
  return {};
}

std::vector<std::string> options_of(const std::string& command) {
  if (command == "run") return {"--worker", "--dry-run", "--exit-code", "--help", "--version"};
  if (command == "plan")
    return {"--worker", "--workers", "--schedule", "--plot", "--svg", "--json", "--help"};
  if (command == "bench")
    return {"--worker", "--bytes", "--dtype", "--seconds", "--steps", "--json", "--help"};
  return {"--json", "--help"};
}

}  // namespace

CommandLine parse_command_line(int argc, const char* const* argv) {
  CommandLine line;
  CLI::App program("Retrains what you already have: the same model again, as data arrives.", "rekindle");
  program.set_version_flag("--version", "rekindle " REKINDLE_VERSION);
  program.require_subcommand(1);
  add_run(program, line.run);
  PlanCommand plan;
  const CLI::App* const planning = add_plan(program, plan);
  LookCommand look;
  const std::vector<CLI::App*> looks = add_looks(program, look);
  BenchCommand bench;
  const std::vector<CLI::App*> benches = add_bench(program, bench);

  must_begin_with_command(argc, argv);
  try {
    program.parse(argc, argv);
  } catch (const CLI::CallForHelp&) {
    line.answer = program.help();
  } catch (const CLI::CallForVersion&) {
    line.answer = program.version() + "\n";
  } catch (const CLI::ParseError& error) {
    const std::string command = argv[1];
    const std::vector<std::string> options = options_of(command);
    throw usage_error(error.what(), slip_in(argc, argv, options), options, "rekindle " + command + " --help");
  }
  if (planning->parsed()) line.plan = plan;
  for (const CLI::App* command : looks) {
    if (!command->parsed()) continue;
    look.what = command->get_name();
    line.look = look;
  }
  for (const CLI::App* command : benches) {
    if (!command->parsed()) continue;
    bench.what = command->get_name();
    line.bench = bench;
  }
  return line;
}

}  // namespace rekindle
