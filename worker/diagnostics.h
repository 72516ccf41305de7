// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "comm/communicator.h"
#include "core/schedule_state.h"
#include "optimizers/optimizer.h"

namespace rekindle {

// What the passes of a step tell of the noise in its gradient: each pass is a small batch of its own.
struct PassSums {
  double squares = 0;   // of the norms of their gradients, each taken for the mean over its own samples
  double inverses = 0;  // of their samples
  double passes = 0;
};

// McCandlish et al. 2018, appendix A.1: with |G|^2 the squared norm of the true gradient and S the trace of a
// sample's covariance, a batch of b has a squared norm of |G|^2 + S/b on average. Both are estimated from the
// passes and from the whole batch, and averaged over steps in `state`. False, and nothing changes, for a step
// of one pass on one rank, which cannot tell them apart.
bool hear_noise(const PassSums& passes, double squared_norm, int64_t samples, ScheduleState& state);

// S/|G|^2: the batch up to which a larger one is nearly as good as more steps. None where the state cannot
// tell yet.
std::optional<double> noise_scale(const ScheduleState& state);
std::optional<double> steady_noise_scale(const ScheduleState& state);  // none in the first steps

// What a step of `samples` is worth, in steps of `base_batch` (Johnson et al. 2020): from 1 to their ratio.
std::optional<double> adascale_gain(const ScheduleState& state, int64_t base_batch, int64_t samples);

// How far one update moves each group of parameters, as a share of its norm. Collective: each rank looks at
// the part that it owns.
class UpdateRatio {
 public:
  UpdateRatio(Communicator& communicator, const FlatLayout& layout, const OptimizerOptions& options);

  void before(const Optimizer& optimizer);
  std::vector<std::pair<std::string, double>> after(const Optimizer& optimizer);  // as the groups first occur

 private:
  Communicator& communicator_;
  const FlatLayout& layout_;
  std::vector<std::string> names_;
  std::vector<size_t> group_;     // by parameter: in names_
  std::vector<at::Tensor> held_;  // by segment
};

}  // namespace rekindle
