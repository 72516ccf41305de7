// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <span>
#include <vector>

#include "comm/communicator.h"

namespace rekindle {

// Numbers that each leaf of a step gives besides its gradient (its loss, say), seen by all ranks and added
// over the leaves as the plan has it: the same sums on every rank.
class LeafValues {
 public:
  LeafValues(Communicator& communicator, const SumPlan& plan, int64_t width);  // collective

  std::span<double> row(int leaf);  // [width]; a rank writes those of its own leaves, anew each step

  // Collective: starts showing the rows to all. They may be read after the communicator's next join(), until
  // this is called again.
  void exchange();
  std::span<const double> sums();           // [width]
  std::span<const double> shown(int leaf);  // a row, [width]

 private:
  Communicator& communicator_;
  const int64_t width_;
  const int leaves_;
  const SumOrder order_;
  at::Tensor rows_;  // [2, leaves, width]: in turn, so that a rank may write while another still reads
  int64_t turn_ = 0, shown_ = 0;
  std::vector<double> sums_;
};

}  // namespace rekindle
