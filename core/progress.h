// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <vector>

#include "core/units.h"

namespace rekindle {

// Where a run stands. The clock is global samples seen; the rest follows from it or is agreed by all ranks.
struct Progress {
  int64_t samples = 0;  // seen by all ranks together
  int64_t step = 0;     // optimizer steps done
  double seconds = 0;   // of training, as rank 0 measured it; the same on every rank

  bool operator==(const Progress&) const = default;
};

// A global batch that grows from `start`, by multiples of it, in proportion to what was seen of `samples`.
struct BatchRamp {
  int64_t start = 0;
  double samples = 0;  // 0: it does not
};

// How steps, samples and epochs map to each other. An epoch is one pass over `epoch_samples`, in batches of
// `global_batch`, the last of which is smaller where it must be: ceil(N/B) steps, once the batch has grown.
class Timeline {
 public:
  Timeline(int64_t epoch_samples, int64_t global_batch, const BatchRamp& ramp = {});

  int64_t epoch_samples() const { return epoch_samples_; }
  int64_t global_batch() const { return global_batch_; }
  int64_t steps_per_epoch() const { return steps_per_epoch_; }
  int64_t ramp_steps() const { return static_cast<int64_t>(ramp_starts_.size()); }  // while the batch grows

  int64_t samples_after(int64_t steps) const;  // samples seen once `steps` steps are done
  int64_t steps_at(int64_t samples) const;     // whole steps done once `samples` are seen
  int64_t epoch_at(int64_t samples) const { return samples / epoch_samples_; }
  int64_t batch_at(int64_t samples) const;  // samples of the step that starts there

  // A length in samples, not rounded to a step. `run_samples` is the length of the whole run, for "dur".
  // Throws bad_input for time and tokens, which have no fixed number of samples.
  double samples_in(const Length& length, double run_samples) const;

 private:
  int64_t epoch_samples_, global_batch_, steps_per_epoch_;
  BatchRamp ramp_;
  std::vector<int64_t> ramp_starts_;  // samples before each step while the batch grows
  int64_t ramp_end_ = 0;              // samples after the last of them
  int64_t rest_samples_ = 0;          // of the epoch that it ends in
  int64_t rest_steps_ = 0;
};

}  // namespace rekindle
