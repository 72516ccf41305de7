// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <ATen/core/Tensor.h>

#include <vector>

#include "comm/communicator.h"
#include "warmstart/named_state.h"

namespace rekindle {

// Buffers that every rank updates from its own samples (batch-norm's) become one again after each step: what
// changed is averaged over ranks, counts take the maximum. So all ranks evaluate and save one and the same
// model, and a run that is stopped at any step goes on from exactly there.
class RunningStatistics {
 public:
  // The buffers must be the same on every rank now.
  RunningStatistics(Communicator& communicator, const NamedState& state);

  void agree();  // collective

 private:
  Communicator& communicator_;
  std::vector<at::Tensor> values_, counts_;
  at::Tensor agreed_, change_;  // [elements of all values], float64
  at::Tensor most_;             // [elements of all counts], int64
};

}  // namespace rekindle
