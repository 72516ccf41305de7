// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <filesystem>

#include "comm/communicator.h"
#include "comm/flat_parameters.h"
#include "core/file_system.h"
#include "core/progress.h"
#include "data/dataset.h"
#include "data/split.h"
#include "job/job.h"
#include "models/model.h"
#include "warmstart/named_state.h"
#include "worker/evaluation.h"
#include "worker/metrics_log.h"

namespace rekindle {

// What the parts of one rank's run have in common. Nothing here is owned; all of it outlives them.
struct Run {
  const Job& job;
  Communicator& communicator;
  FileSystem& files;
  const std::filesystem::path directory;  // of the run, shared by all ranks
  const Dataset& data;
  const Split& split;
  Model& model;
  const FlatParameters& parameters;
  const NamedState& state;  // parameters and buffers by name
  MetricsLog& metrics;      // rank 0's has a file, the others' have none

  bool is_root() const { return communicator.rank() == 0; }
  EvaluateOptions evaluate_options() const { return {job.evaluation.batch, job.data.mean, job.data.std}; }
};

// An `eval` event, and a line for people on rank 0. `set` is validation, test_old or test_new; `model` parent
// or child.
void log_scores(const Run& run, const char* set, const char* model, const Scores& scores,
                const Progress& progress);

}  // namespace rekindle
