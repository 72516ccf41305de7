// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include "core/units.h"

namespace rekindle {

// Where a run stands. The clock is global samples seen; the rest follows from it or is agreed by all ranks.
struct Progress {
  int64_t samples = 0;  // seen by all ranks together
  int64_t step = 0;     // optimizer steps done
  double seconds = 0;   // of training, as rank 0 measured it; the same on every rank

  bool operator==(const Progress&) const = default;
};

// How steps, samples and epochs map to each other. An epoch is one pass over `epoch_samples`, in batches of
// `global_batch`, the last of which is smaller where it must be: ceil(N/B) steps.
class Timeline {
 public:
  Timeline(int64_t epoch_samples, int64_t global_batch);

  int64_t epoch_samples() const { return epoch_samples_; }
  int64_t global_batch() const { return global_batch_; }
  int64_t steps_per_epoch() const { return steps_per_epoch_; }

  int64_t samples_after(int64_t steps) const;  // samples seen once `steps` steps are done
  int64_t steps_at(int64_t samples) const;     // whole steps done once `samples` are seen
  int64_t epoch_at(int64_t samples) const { return samples / epoch_samples_; }
  int64_t batch_at(int64_t samples) const;  // samples of the step that starts there

  // A length in samples, not rounded to a step. `run_samples` is the length of the whole run, for "dur".
  // Throws bad_input for time and tokens, which have no fixed number of samples.
  double samples_in(const Length& length, double run_samples) const;

 private:
  int64_t epoch_samples_, global_batch_, steps_per_epoch_;
};

}  // namespace rekindle
