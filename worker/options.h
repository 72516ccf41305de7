// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <chrono>
#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>

#include "core/units.h"

namespace rekindle {

// `[evaluation]`, but for the split, which belongs to the data.
struct EvaluationOptions {
  bool averaged = false;  // what is scored, saved as the model and judged: the averaged weights
  Length every{1, Unit::kEpochs};
  int64_t batch = 512;  // samples in one forward pass; fixed, so that scores do not depend on the world
};

// `[verdict]`: the gate between a child and its parent.
struct VerdictOptions {
  std::string metric = "accuracy";  // accuracy, or loss (then a fall is a gain)
  double min_gain = 0;              // lower bound of the paired difference on new test data
  double max_forgetting = 0.01;     // the lower bound on old test data may not be under -this
  bool promote_if_inconclusive = false;
};

enum class OnNan { kStop, kSkip, kRollback };
enum class Precision { kFloat32, kBFloat16, kFloat16 };  // of forward and backward pass, by autocast

// What is worked out for the log alone.
struct DiagnosticsOptions {
  bool noise_scale = false, update_ratio = false;
};

// What two runs of one job have in common. Any-world: the bits of the model, on any number of workers;
// gradients are then added along one tree over `virtual_workers` parts of the batch.
enum class Reproducible { kFast, kSameWorld, kAnyWorld };

// `[run]`
struct RunOptions {
  std::filesystem::path line;       // a folder of runs of one model; or
  std::filesystem::path directory;  // one run outside any line
  Length duration;                  // required
  uint64_t seed = 1;
  Reproducible reproducible = Reproducible::kFast;
  int threads = 1;                                                // per worker, for tensor operations
  int workers = 1;                                                // -n of the launcher overrides it
  std::chrono::milliseconds deadline = std::chrono::minutes(10);  // of every named wait
  OnNan on_nan = OnNan::kStop;
  double rollback_lr_factor = 0.5;  // of the rate, after each
  int max_rollbacks = 3;
  Precision precision = Precision::kFloat32;
  bool tf32 = false;  // of float32's products on GPUs
  DiagnosticsOptions diagnostics;
  Length log_every{10, Unit::kBatches};
  Length check_every{100, Unit::kBatches};  // that all ranks hold the same model; 0: never
};

}  // namespace rekindle
