// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <filesystem>
#include <optional>
#include <span>
#include <string>

#include "checkpoints/options.h"
#include "data/options.h"
#include "models/options.h"
#include "optimizers/options.h"
#include "schedules/options.h"
#include "warmstart/options.h"
#include "worker/options.h"

namespace rekindle {

// Everything a job file says, checked. Plain data: equal files, equal jobs.
struct Job {
  std::filesystem::path file;  // where it was read from
  ModelOptions model;
  DataOptions data;
  SplitOptions split;  // of [evaluation]
  BatchOptions batch;
  OptimizerOptions optimizer;
  ScheduleOptions schedule;
  WarmStartOptions warm_start;
  EvaluationOptions evaluation;
  CheckpointOptions checkpoint;
  std::optional<VerdictOptions> verdict;
  RunOptions run;
};

// Reads a job file and lays `overrides` ("schedule.base_lr=0.2", value read as TOML, else taken as a string)
// over it; both go through the same checks. Relative paths are resolved against the file's folder (overrides
// too). Throws one Error (78) that lists all mistakes with file, line, column, what was expected and the
// nearest known key.
Job read_job(const std::filesystem::path& file, std::span<const std::string> overrides = {});

// The job as a TOML file that reads back to the same job: every key, paths absolute.
std::string to_toml(const Job& job);

// XXH3-128 over what makes the model: everything but paths of the run itself, duration, intervals, logging,
// workers and the deadline, which a resumed run may change.
std::string job_digest(const Job& job);

// What of that differs, for a message: "schedule.base_lr = 0.2 instead of 0.1" and how many more there are.
// Empty where the digests are equal.
std::string difference_text(const Job& job, const Job& other);

}  // namespace rekindle
