// SPDX-License-Identifier: Apache-2.0
#include <ATen/Context.h>
#include <ATen/Parallel.h>
#include <torch/utils.h>

#include <chrono>
#include <cstdio>
#include <cstring>
#include <exception>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "comm/mpi_session.h"
#include "core/error.h"
#include "core/log.h"
#include "core/names.h"
#include "warmstart/load_weights.h"
#include "worker/environment.h"
#include "worker/line.h"
#include "worker/model_card.h"
#include "worker/referee.h"
#include "worker/stop_signal.h"
#include "worker/trainer.h"
#include "worker/worker.h"

namespace rekindle {
namespace {

constexpr char kUsage[] = "usage: rekindle-worker JOB [--exit-code] [section.key=value ...]";

struct Arguments {
  std::string job;
  std::vector<std::string> overrides;
  bool exit_code = false;   // 3 where the parent stays
};

Arguments parse(int argc, char** argv) {
  Arguments arguments;
  for (int i = 1; i < argc; ++i) {
    const std::string text = argv[i];
    if (text == "--exit-code") arguments.exit_code = true;
    else if (text.starts_with("-")) throw Error("unknown option '" + text + "'", {"", kUsage, ExitCode::kUsage});
    else if (arguments.job.empty()) arguments.job = text;
    else arguments.overrides.push_back(text);
  }
  if (arguments.job.empty()) throw Error("no job file was given", {"", kUsage, ExitCode::kUsage});
  return arguments;
}

// Everything is read before the ranks first meet, so that what is wrong with it can be said by one for all.
struct Request {
  Arguments arguments;
  std::optional<Job> job;
  std::exception_ptr failure;

  Request(int argc, char** argv) {
    try {
      arguments = parse(argc, argv);
      job = read_job(arguments.job, arguments.overrides);
    } catch (const Error&) {
      failure = std::current_exception();
    }
  }
};

CommOptions comm_options(const Request& request) {
  CommOptions options;
  if (request.job) options.deadline = request.job->run.deadline;
  return options;
}

// Threads, determinism and the seed that the initial weights come from.
void set_up_torch(const Job& job) {
  at::set_num_threads(job.run.threads);
  if (job.run.reproducible == Reproducible::kSameWorld) {
    at::globalContext().setDeterministicAlgorithms(true, /*warn_only=*/false);
  }
  torch::manual_seed(job.run.seed);
}

Dataset load_data(Communicator& communicator, FileSystem& files, const Job& job, const ParentFacts& parent) {
  std::optional<Dataset> data;
  together(communicator, "data", [&] {
    data.emplace(files, job.data, parent.card ? parent.card->classes : std::vector<std::string>{});
  });
  std::string digests;
  for (const Increment& increment : data->increments()) digests += increment.digest;
  const auto all = all_gather_text(communicator, digests, "digests of the data");
  for (size_t rank = 1; rank < all.size(); ++rank) {
    if (all[rank] == all[0]) continue;
    throw AgreedError(bad_input("rank " + std::to_string(rank) + " read other data than rank 0", "[data]",
                                "the files must be the same on every node"));
  }
  if (communicator.rank() == 0) {
    for (const std::string& warning : data->warnings()) log_warning(warning);
  }
  return std::move(*data);
}

Split split_data(Communicator& communicator, const Dataset& data, const Job& job) {
  Split parts;
  together(communicator, "split of the data", [&] { parts = split(data, job.split); });
  if (communicator.rank() == 0) {
    log_info(std::to_string(data.size()) + " samples in " + std::to_string(data.increments().size()) +
             " increments: " + std::to_string(parts.train.size()) + " to train on, " +
             std::to_string(parts.validation.size()) + " for validation, " + std::to_string(parts.test.size()) +
             " for the test");
  }
  return parts;
}

Lineage lineage_of(const Job& job, const ParentFacts& parent) {
  Lineage lineage;
  lineage.parent = parent.digest;
  lineage.job = job_digest(job);
  lineage.validation = job.split.validation;
  lineage.test = job.split.test;
  lineage.split_by = "key";
  lineage.held_out_test = std::min(parent.held_out_test, job.split.test);
  lineage.build = build_name();
  return lineage;
}

// Opens the run's directory on rank 0 and tells the others; writes what is known before training.
std::filesystem::path open_directory(Communicator& communicator, FileSystem& files, const Job& job, RunPlace* place) {
  std::string directory;
  together(communicator, "run directory", [&] {
    const std::filesystem::path path = place->open();
    directory = path.string();
    files.create_directories(path / names::kLogs);
    write_synced(files, path / names::kResolvedJob, to_toml(job));
    write_synced(files, path / names::kEnvironment, describe_environment(communicator.world()).dump(2) + "\n");
  }, 0);
  broadcast_text(communicator, directory, 0, "run directory");
  const int rank = communicator.rank();
  together(communicator, "log", [&] {
    start_log({rank, communicator.world(), std::filesystem::path(directory) / names::kLogs / names::log_of(rank)});
  });
  if (rank == 0) log_info("run directory " + directory);
  return directory;
}

void warm_start(const Run& run, const ParentFacts& parent) {
  if (run.job.warm_start.from.empty() || run.job.warm_start.strategy == Strategy::kCold || !parent.exists()) {
    const bool nothing_yet = !parent.exists() && !run.job.warm_start.from.empty();
    if (run.is_root()) log_info(nothing_yet ? "nothing is promoted in this line yet: starting cold" : "starting cold");
    return;
  }
  const LoadReport report = load_weights(run.communicator, run.files, parent.weights, run.state, run.parameters.flat(),
                                         run.job.warm_start.min_loaded);
  run.metrics.write("warm_start", {{"parent", parent.digest},
                                   {"loaded", report.loaded_share()},
                                   {"fresh", 1 - report.loaded_share()},
                                   {"renamed", 0.0},
                                   {"resized", 0.0},
                                   {"unused_tensors", report.unused.size()},
                                   {"seconds", report.seconds},
                                   {"gb_per_s", report.gb_per_s()}});
  if (run.is_root()) log_info("warm start from " + parent.weights + ": " + report.text());
}

void write_end(const Run& run, const char* status, const Progress& progress) {
  run.metrics.write("end", {{"status", status},
                            {"step", progress.step},
                            {"samples", progress.samples},
                            {"seconds", progress.seconds}});
}

ExitCode train_and_judge(const Run& run, const ParentFacts& parent, bool unfinished, bool exit_code) {
  std::unique_ptr<Trainer> made;
  together(run.communicator, "training", [&] {
    made = std::make_unique<Trainer>(run, lineage_of(run.job, parent),
                                     card_of(run.job, run.data.shape(), run.data.classes()));
  });
  Trainer& trainer = *made;
  Referee referee(run, parent);
  const bool resumed = unfinished && trainer.resume();
  run.metrics.write(unfinished ? "restart" : "start", {{"job", job_digest(run.job)},
                                                       {"workers", run.communicator.world()},
                                                       {"step", trainer.progress().step},
                                                       {"samples", trainer.progress().samples},
                                                       {"build", build_name()}});
  if (resumed && run.is_root()) log_info("resuming at step " + std::to_string(trainer.progress().step));
  if (!resumed) warm_start(run, parent);
  referee.hear_parent();
  if (!resumed) {
    const std::optional<Scores> at_start = trainer.evaluate_validation();
    if (run.job.warm_start.strategy == Strategy::kWarm) referee.check_start(at_start);
  }

  if (trainer.train() == Outcome::kPreempted) {
    write_end(run, "preempted", trainer.progress());
    if (run.is_root()) log_info("stopped as asked; run again to go on from here");
    return ExitCode::kPreempted;
  }
  const Published& last = *trainer.checkpointer().latest();
  const Verdict verdict = referee.judge(trainer.progress(), last.digest, last.path);
  write_end(run, "done", trainer.progress());
  if (run.is_root()) log_info("verdict: " + verdict.verdict + " (" + verdict.reason + ")");
  const bool stays = verdict.verdict != "promoted" && !verdict.promote;
  return exit_code && stays ? ExitCode::kParentStays : ExitCode::kDone;
}

ExitCode run_job(Communicator& communicator, const Job& job, bool exit_code) {
  FileSystem& files = posix_file_system();
  const bool root = communicator.rank() == 0;
  std::unique_ptr<RunPlace> place;
  together(communicator, "run directory", [&] { place = std::make_unique<RunPlace>(files, job); }, 0);
  std::string found = root && place->finished() ? "finished" : root && place->unfinished() ? "unfinished" : "new";
  broadcast_text(communicator, found, 0, "state of the run");
  if (found == "finished") {
    if (root) log_info("this run is finished: " + job.run.directory.string());
    return ExitCode::kDone;
  }

  const ParentFacts parent = find_parent_together(communicator, files, job);
  const Dataset data = load_data(communicator, files, job, parent);
  const Split split = split_data(communicator, data, job);
  if (parent.card) {
    together(communicator, "preprocessing",
             [&] { check_preprocessing(*parent.card, card_of(job, data.shape(), data.classes())); });
  }
  std::shared_ptr<Model> model;
  NamedState state;
  std::unique_ptr<FlatParameters> parameters;
  together(communicator, "model", [&] {
    model = make_model(job.model, data.shape());
    state = state_of(*model);
    parameters = std::make_unique<FlatParameters>(communicator, state.parameters);
  });

  const std::filesystem::path directory = open_directory(communicator, files, job, place.get());
  MetricsLog metrics;
  together(communicator, "metrics", [&] { metrics = MetricsLog(files, directory / names::kMetrics); }, 0);
  const Run run{job, communicator, files, directory, data, split, *model, *parameters, state, metrics};
  return train_and_judge(run, parent, found == "unfinished", exit_code);
}

}  // namespace

int worker_main(int argc, char** argv) {
  MpiSession session(&argc, &argv);
  start_log({session.rank(), session.world(), {}});
  catch_stop_signals();
  try {
    const Request request(argc, argv);
    const auto communicator = session.make_communicator(comm_options(request));
    together(*communicator, "job", [&] {
      if (request.failure) std::rethrow_exception(request.failure);
    });
    set_up_torch(*request.job);
    return static_cast<int>(run_job(*communicator, *request.job, request.arguments.exit_code));
  } catch (const AgreedError& error) {
    if (session.rank() == 0) log_error(error.what());
    return static_cast<int>(error.code());
  } catch (const Error& error) {
    log_error("rank " + std::to_string(session.rank()) + " failed: " + error.what());
    session.abort(static_cast<int>(error.code()));
  } catch (const std::exception& error) {
    log_error("rank " + std::to_string(session.rank()) + " failed: " + error.what());
    session.abort(static_cast<int>(ExitCode::kFailed));
  }
}

}  // namespace rekindle
