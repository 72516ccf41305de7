// SPDX-License-Identifier: Apache-2.0
#include <c10/util/Exception.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <exception>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "checkpoints/checkpoint.h"
#include "checkpoints/locate.h"
#include "comm/mpi_session.h"
#include "core/error.h"
#include "core/log.h"
#include "core/names.h"
#include "warmstart/load_weights.h"
#include "worker/arguments.h"
#include "worker/bench.h"
#include "worker/describe.h"
#include "worker/environment.h"
#include "worker/line.h"
#include "worker/model_card.h"
#include "worker/preflight.h"
#include "worker/referee.h"
#include "worker/setup.h"
#include "worker/stop_signal.h"
#include "worker/trainer.h"
#include "worker/worker.h"

namespace rekindle {
namespace {

// Everything is read before the ranks first meet, so that what is wrong with it can be said by one for all.
struct Request {
  Arguments arguments;
  std::optional<Job> job;
  std::exception_ptr failure;

  Request(int argc, char** argv) {
    try {
      arguments = parse_arguments(argc, argv);
      if (!arguments.job.empty()) job = read_job(arguments.job, arguments.overrides);
    } catch (const Error&) {
      failure = std::current_exception();
    }
  }
};

CommOptions comm_options(const Request& request) {
  CommOptions options;
  if (!request.job) return options;
  options.deadline = request.job->run.deadline;
  options.same_bits = request.job->run.reproducible != Reproducible::kFast;
  return options;
}

// What a child inherits: what its weights were trained on, and what none of its ancestors was.
Lineage lineage_of(const Job& job, const ParentFacts& parent) {
  Lineage lineage;
  lineage.parent = parent.digest;
  lineage.job = job_digest(job);
  lineage.validation = job.split.validation;
  lineage.test = job.split.test;
  lineage.held_out_test = job.split.test;
  lineage.build = build_name();
  if (job.warm_start.strategy == Strategy::kCold) return lineage;
  lineage.increments = parent.increments;
  lineage.origin = parent.origin;
  lineage.held_out_test = std::min(parent.held_out_test, job.split.test);
  return lineage;
}

nlohmann::ordered_json environment_of(const Communicator& communicator, const ParentFacts& parent) {
  nlohmann::ordered_json environment = describe_environment(communicator);
  environment["parent"] = nullptr;
  if (parent.exists()) environment["parent"] = to_json(parent);
  return environment;
}

// Opens the run's directory on rank 0 and tells the others; writes what is known before training.
std::filesystem::path open_directory(Communicator& communicator, FileSystem& files, const Job& job,
                                     const ParentFacts& parent, RunPlace* place) {
  std::string directory;
  together(
      communicator, "run directory",
      [&] {
        const std::filesystem::path path = place->open();
        directory = path.string();
        files.create_directories(path / names::kLogs);
        replace_file(files, path / names::kEnvironment, environment_of(communicator, parent).dump(2) + "\n");
        replace_file(files, path / names::kResolvedJob,
                     to_toml(job));  // the last: with it the folder is a run
      },
      0);
  broadcast_text(communicator, directory, 0, "run directory");
  const int rank = communicator.rank();
  together(communicator, "log", [&] {
    files.create_directories(std::filesystem::path(directory) /
                             names::kLogs);  // on other nodes, it may be another folder
    start_log(
        {rank, communicator.world(), std::filesystem::path(directory) / names::kLogs / names::log_of(rank)});
  });
  if (rank == 0) log_info("run directory " + directory);
  return directory;
}

LoadReport warm_start(const Run& run, const ParentFacts& parent) {
  const WarmStartOptions& options = run.job.warm_start;
  if (options.from.empty() || options.strategy == Strategy::kCold || !parent.exists()) {
    const bool nothing_yet = !parent.exists() && !options.from.empty();
    if (run.is_root())
      log_info(nothing_yet ? "nothing is promoted in this line yet: starting cold" : "starting cold");
    return {};
  }
  const HeadClasses classes = parent.classes(run.data.classes());
  const LoadReport report =
      load_weights(run.communicator, run.files, parent.source, run.state, options, classes);
  run.metrics.write("warm_start", {{"parent", parent.digest},
                                   {"loaded", report.loaded_share()},
                                   {"fresh", 1 - report.loaded_share()},
                                   {"renamed", report.renamed_share()},
                                   {"resized", report.resized_share()},
                                   {"unused", report.unused_share()},
                                   {"seconds", report.seconds},
                                   {"gb_per_s", report.gb_per_s()}});
  if (run.is_root()) log_info("warm start from " + parent.path + ": " + report.text());
  return report;
}

// Up to the first step: the weights are there, and the parent has been heard.
void prepare(const Run& run, const ParentFacts& parent, Trainer& trainer, Referee& referee, bool unfinished) {
  const bool resumed = unfinished && trainer.resume();
  run.metrics.write(run.metrics.goes_on() ? "restart" : "start",
                    {{"job", job_digest(run.job)},
                     {"workers", run.communicator.world()},
                     {"step", trainer.progress().step},
                     {"samples", trainer.progress().samples},
                     {"parameters", run.parameters.layout().elements()},
                     {"sample", run.data.shape().sample()},
                     {"build", build_name()}});
  if (resumed && run.is_root()) log_info("resuming at step " + std::to_string(trainer.progress().step));
  LoadReport loaded;
  if (!resumed) {
    loaded = warm_start(run, parent);
    trainer.start(parent);
  }
  referee.hear_parent();
  if (resumed) return;
  const std::optional<Scores> validation = trainer.evaluate_validation();
  if (run.job.warm_start.strategy == Strategy::kWarm) referee.check_start(validation, loaded);
}

void write_end(const Run& run, const char* status, const Trainer& trainer) {
  const Progress& progress = trainer.progress();
  run.metrics.write("end", {{"status", status},
                            {"step", progress.step},
                            {"samples", progress.samples},
                            {"seconds", progress.seconds},
                            {"skipped", trainer.skipped()}});
}

// What was being saved when a run failed is as good as before.
void end_of_save(Trainer& trainer) {
  try {
    trainer.checkpointer().finish();
  } catch (const AgreedError& error) {
    log_error(error.what());
  }
}

// A start that was refused before its first step leaves nothing behind; whatever came further says how it
// ended.
void give_up(const Run& run, const Trainer& trainer, bool unfinished) {
  if (unfinished || trainer.progress().step > 0) return write_end(run, "failed", trainer);
  if (run.is_root()) run.files.remove_all(run.directory);
}

std::string what_follows(const Job& job, const Verdict& verdict) {
  if (job.run.line.empty()) return "; outside a line nothing is promoted";
  return verdict.promote ? "; the line now serves this model" : "; the line goes on serving the parent";
}

bool parent_stays(const std::string& verdict, bool promoted) {
  return verdict != "promoted" && !promoted;
}

ExitCode train_and_judge(const Run& run, const ParentFacts& parent, const ScheduleState& schedule,
                         bool unfinished, bool exit_code) {
  Trainer trainer(run, lineage_of(run.job, parent), card_of(run.job, run.data.shape(), run.data.classes()),
                  schedule);
  Referee referee(run, parent);
  try {
    prepare(run, parent, trainer, referee, unfinished);
    if (trainer.train() == Outcome::kPreempted) {
      write_end(run, "preempted", trainer);
      if (run.is_root()) log_info("stopped as asked; run again to go on from here");
      return ExitCode::kPreempted;
    }
    const Published& last = *trainer.checkpointer().latest();
    const Verdict verdict = referee.judge(trainer.progress(), last.digest, last.path);
    write_end(run, "done", trainer);
    if (run.is_root())
      log_info("verdict: " + verdict.verdict + " (" + verdict.reason + ")" + what_follows(run.job, verdict));
    return exit_code && parent_stays(verdict.verdict, verdict.promote) ? ExitCode::kParentStays
                                                                       : ExitCode::kDone;
  } catch (const AgreedError&) {
    end_of_save(trainer);
    give_up(run, trainer, unfinished);
    throw;
  }
}

// The same answer as when it ended.
ExitCode end_of_finished(FileSystem& files, const std::filesystem::path& directory, bool exit_code) {
  const auto verdict = nlohmann::json::parse(read_text(files, directory / names::kVerdict));
  log_info("this run is finished, its verdict: " + verdict.value("verdict", ""));
  const bool stays = parent_stays(verdict.value("verdict", ""), verdict.value("promoted", false));
  return exit_code && stays ? ExitCode::kParentStays : ExitCode::kDone;
}

void check_same_start(Communicator& communicator, FileSystem& files, const Job& job) {
  std::string program;
  together(communicator, "program", [&] { program = digest_of_file(files, "/proc/self/exe"); });
  const char* const hint = "start all ranks with the same program and the same arguments";
  check_same(communicator, build_name() + program, "program", hint);
  check_same(communicator, to_toml(job), "job", hint);
  if (job.run.reproducible != Reproducible::kAnyWorld) return;
  check_same(communicator, arithmetic_name(communicator), "instructions or math libraries",
             "run.reproducible = \"any-world\" is for processors that compute alike");
}

// Of any-world an unfinished run cannot go on elsewhere and still be what it would have been.
void check_same_arithmetic(FileSystem& files, const std::filesystem::path& recorded, const Job& job,
                           const Communicator& communicator) {
  if (job.run.reproducible != Reproducible::kAnyWorld || !files.exists(recorded)) return;
  const auto environment = nlohmann::json::parse(read_text(files, recorded));
  const std::string before = environment.value("arithmetic", ""), now = arithmetic_name(communicator);
  if (before.empty() || before == now) return;
  throw bad_input(
      "this run began on " + before + ", and here is " + now, recorded.string(),
      "with run.reproducible = \"any-world\" it goes on where processors and libraries are the same");
}

// A run may be made longer, and not shorter than it is already: a run that is over ends within a step.
void check_not_behind(const Job& job, const TrainState& saved, int64_t train_samples) {
  if (job.run.duration.is_time()) return;
  const auto world = std::ranges::max(saved.worlds, {}, &WorldSpan::world).world;
  const double end = timeline_of(job, train_samples).samples_in(job.run.duration, 0);
  const int64_t samples = saved.progress.samples,
                step = std::max(job.batch.global, job.batch.per_worker * world);
  if (static_cast<double>(samples - step) < end) return;
  throw bad_input(
      "the run has trained on " + std::to_string(samples) + " samples, and " + to_string(job.run.duration) +
          " are " + std::to_string(std::llround(end)),
      "run.duration",
      "a run can be made longer, not shorter; for a new one give another directory, or in a line move "
      "this one away");
}

// state.json of the newest checkpoint that can be read; empty where there is none.
std::string newest_state(FileSystem& files, const std::filesystem::path& directory) {
  const auto generations = generations_in(files, directory);
  for (auto newest = generations.rbegin(); newest != generations.rend(); ++newest) {
    try {
      return to_json(open_checkpoint(files, *newest, Verify::kDocuments).state).dump();
    } catch (const Error&) {  // it is told when the run is resumed
    }
  }
  return "";
}

// Where the schedule stands when the run begins, or goes on: as its newest checkpoint has it, though another
// one may be what is resumed from if that is damaged.
ScheduleState schedule_begin(Communicator& communicator, FileSystem& files, const Job& job,
                             const ParentFacts& parent, const Split& split, const RunPlace* place) {
  std::string text;
  together(
      communicator, "state of the run",
      [&] {
        if (place->unfinished()) text = newest_state(files, place->directory());
      },
      0);
  broadcast_text(communicator, text, 0, "state of the run");
  ScheduleState state;
  together(communicator, "schedule", [&] {
    if (text.empty()) {
      state = starting_state(job, parent.exists(), parent.state ? &*parent.state : nullptr);
      return;
    }
    const TrainState saved = train_state_from_json(nlohmann::json::parse(text), "the newest checkpoint");
    check_not_behind(job, saved, static_cast<int64_t>(split.train.size()));
    state = schedule_state_of(saved);
  });
  return state;
}

ExitCode run_job(Communicator& communicator, const Job& job, bool exit_code) {
  FileSystem& files = posix_file_system();
  check_same_start(communicator, files, job);
  std::unique_ptr<RunPlace> place;  // on rank 0 alone
  std::string found = "new", recorded;
  together(
      communicator, "run directory",
      [&] {
        place = std::make_unique<RunPlace>(files, job);
        if (place->finished()) {
          found = std::to_string(static_cast<int>(end_of_finished(files, place->directory(), exit_code)));
        } else if (place->unfinished()) {
          found = "unfinished";
          recorded = (place->directory() / names::kEnvironment).string();
          check_same_arithmetic(files, recorded, job, communicator);
        }
      },
      0);
  broadcast_text(communicator, found, 0, "state of the run");
  const bool unfinished = found == "unfinished";
  if (!unfinished && found != "new") return static_cast<ExitCode>(std::stoi(found));

  const ParentFacts parent = find_parent_together(communicator, files, job, recorded);
  const Dataset data =
      load_data(communicator, files, job, parent.card ? parent.card->classes : std::vector<std::string>{});
  const Split split = split_data(communicator, data, job);
  if (parent.card) {
    together(communicator, "preprocessing",
             [&] { check_preprocessing(*parent.card, card_of(job, data.shape(), data.classes())); });
  }
  const ScheduleState schedule = schedule_begin(communicator, files, job, parent, split, place.get());
  const Trainee trainee = build_model(communicator, job, data, split, schedule);
  if (!unfinished) {
    const auto samples = static_cast<int64_t>(split.train.size());
    together(communicator, "noise", [&] { check_noise(job, *trainee.model, samples, communicator.world()); });
  }
  const std::filesystem::path directory = open_directory(communicator, files, job, parent, place.get());
  MetricsLog metrics;
  together(
      communicator, "metrics", [&] { metrics = MetricsLog(files, directory / names::kMetrics); }, 0);
  const Run run{job,           communicator, files,          directory,
                data,          split,        *trainee.model, *trainee.parameters,
                trainee.state, metrics};
  return train_and_judge(run, parent, schedule, unfinished, exit_code);
}

ExitCode perform(Communicator& communicator, const Request& request) {
  if (request.arguments.task == Task::kBenchAllReduce) {
    bench_all_reduce(communicator, request.arguments.bench);
    return ExitCode::kDone;
  }
  const Job job = for_world(*request.job, communicator.world());
  set_up_torch(job);
  if (request.arguments.task == Task::kBenchStep) {
    bench_step(communicator, job, request.arguments.bench);
    return ExitCode::kDone;
  }
  if (request.arguments.task == Task::kBenchOptimizer) {
    bench_optimizer(communicator, job, request.arguments.bench);
    return ExitCode::kDone;
  }
  return run_job(communicator, job, request.arguments.exit_code);
}

// One process alone, before there is any MPI.
int describe_job(const Request& request) {
  try {
    if (request.failure) std::rethrow_exception(request.failure);
    set_up_torch(*request.job);
    std::vector<int> worlds = request.arguments.worlds;
    if (worlds.empty()) worlds.push_back(request.job->run.workers);
    const auto answer = describe(posix_file_system(), *request.job, worlds, request.arguments.schedule);
    std::puts(answer.dump().c_str());
    return static_cast<int>(ExitCode::kDone);
  } catch (const Error& error) {
    log_error(error.what());
    return static_cast<int>(error.code());
  } catch (const c10::Error& error) {
    log_error(error.what_without_backtrace());
    return static_cast<int>(ExitCode::kFailed);
  } catch (const std::exception& error) {
    log_error(error.what());
    return static_cast<int>(ExitCode::kFailed);
  }
}

}  // namespace

int worker_main(int argc, char** argv) {
  if (std::count(argv, argv + argc, std::string("--describe")) > 0) {
    start_log({0, 1, {}});
    return describe_job(Request(argc, argv));
  }
  MpiSession session(&argc, &argv);
  start_log({session.rank(), session.world(), {}});
  try {
    const Request request(argc, argv);
    if (request.arguments.task == Task::kTrain) catch_stop_signals();  // the others have nothing to save
    const auto communicator = session.make_communicator(comm_options(request));
    together(*communicator, "job", [&] {
      if (request.failure) std::rethrow_exception(request.failure);
    });
    const ExitCode code = perform(*communicator, request);
    communicator->close();
    return static_cast<int>(code);
  } catch (const AgreedError& error) {
    if (session.rank() == 0) log_error(error.what());
    return static_cast<int>(error.code());
  } catch (const Error& error) {
    log_error("rank " + std::to_string(session.rank()) + " failed: " + error.what());
    session.leave(static_cast<int>(error.code()));
  } catch (const c10::Error& error) {
    log_error("rank " + std::to_string(session.rank()) + " failed: " + error.what_without_backtrace());
    session.leave(static_cast<int>(ExitCode::kFailed));
  } catch (const std::exception& error) {
    log_error("rank " + std::to_string(session.rank()) + " failed: " + error.what());
    session.leave(static_cast<int>(ExitCode::kFailed));
  }
}

}  // namespace rekindle
