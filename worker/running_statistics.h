// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <span>
#include <vector>

#include "comm/leaf_values.h"
#include "warmstart/named_state.h"

namespace rekindle {

// Buffers that forward passes update from their samples (batch-norm's) move once a step: every pass starts
// from the same values, and what it changed is averaged over all passes of all virtual workers, by their
// samples. Counts move by the most that any moved them. So all ranks evaluate and save one and the same
// model, whatever their number, and a run that is stopped at any step goes on from exactly there. Told by
// PyTorch's names for batch-norm's (running_mean, running_var, num_batches_tracked); other buffers are taken
// to be constants.
class RunningStatistics {
 public:
  explicit RunningStatistics(const NamedState& state);  // the buffers must be the same on every rank now

  int64_t size() const { return agreed_.numel(); }

  void reset();  // to what was agreed last: before each pass, and where a step is skipped
  // Adds to `change`, which all will be shown, what changed since; `weight` is the share of the step's
  // samples that it came from.
  void add_change(double weight, std::span<double> change) const;
  // Takes what all virtual workers together changed. `sums` is over all of them; `rows` are theirs, for
  // counts.
  void apply(std::span<const double> sums, const std::vector<std::span<const double>>& rows);

 private:
  at::Tensor current() const;

  std::vector<at::Tensor> values_, counts_;
  int64_t values_size_ = 0;
  at::Tensor agreed_;  // [size()], float64: values, then counts
};

}  // namespace rekindle
