// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <ATen/core/Tensor.h>

#include <vector>

#include "comm/communicator.h"
#include "comm/flat_parameters.h"

namespace rekindle {

struct ReducerOptions {
  // Buckets are cut in reverse order of the parameters, as gradients become ready. The first is small, so
  // that the first sum starts early (as PyTorch's DDP does).
  int64_t first_bucket_bytes = 1 << 20;
  int64_t bucket_bytes = 25 << 20;
};

// Gradients of all ranks become one sum, each rank holding its slices of it. Hooks take each gradient as soon
// as backward has it, into a flat line; a bucket is handed in once it is complete, in a fixed order whatever
// the order of backward, and is summed while backward goes on.
class GradientReducer {
 public:
  struct Result {
    double squared_norm;  // of the whole sum: one float64 a block, added in one fixed order; the same on
                          // every rank
  };

  // Collective. Installs its hooks on the parameters, which must outlive it.
  GradientReducer(Communicator& communicator, const FlatParameters& parameters,
                  const ReducerOptions& options = {});
  ~GradientReducer();
  GradientReducer(const GradientReducer&) = delete;
  GradientReducer& operator=(const GradientReducer&) = delete;

  // Call before the backward passes of a step, of which there are `passes` on this rank: none where it has no
  // samples. Gradients add up over them; buckets are handed in during the last.
  void start_step(int passes);

  // Collective, after the last pass: returns once this rank's slices hold the sum.
  Result finish();

  size_t handed_in() const { return next_bucket_; }             // buckets of this step, so far
  const at::Tensor& gradient() const { return flat_; }          // [layout.size()]; valid in slices()
  const std::vector<Range>& slices() const { return slices_; }  // this rank's, one a bucket
  const std::vector<Range>& buckets() const { return buckets_; }

 private:
  class Hook;
  void add(size_t parameter, at::Tensor& gradient);
  void hand_in_ready();

  Communicator& communicator_;
  const FlatParameters& parameters_;
  at::Tensor flat_, squares_;
  std::vector<Range> buckets_, slices_;
  std::vector<size_t> bucket_of_;  // by parameter
  std::vector<int> bucket_size_;   // parameters in it

  // Of the step that runs.
  int passes_ = 0;
  std::vector<int> seen_;     // by parameter: passes that gave a gradient
  std::vector<int> missing_;  // by bucket: parameters that have not given all their gradients
  size_t next_bucket_ = 0;
};

}  // namespace rekindle
