// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <ATen/core/Tensor.h>

#include <utility>
#include <vector>

#include "comm/communicator.h"
#include "comm/flat_parameters.h"

namespace rekindle {

struct ReducerOptions {
  // Buckets are cut in reverse order of the parameters, as gradients become ready. The first is small, so
  // that the first sum starts early (as PyTorch's DDP does).
  int64_t first_bucket_bytes = 1 << 20;
  int64_t bucket_bytes = 25 << 20;
  // Whether a leaf may take several passes. One that adds to a sum of other leaves then needs memory of its
  // own.
  bool several_passes = true;
  bool measures_passes = false;  // take_pass_squares() is asked for
};

// The gradients of all leaves (SumPlan) become one sum, each rank holding its slices of it. Hooks take each
// gradient as soon as backward has it, into a flat line; a bucket is handed in once it is complete, in a
// fixed order whatever the order of backward, and is summed while backward goes on.
//
// A rank's own leaves are merged as they come, like a binary counter: a row of memory for each digit.
class GradientReducer {
 public:
  struct Result {
    double squared_norm;  // of the whole sum: one float64 a block, added in one fixed order; the same on
                          // every rank
  };

  // Collective. Installs its hooks on the parameters, which must outlive it, as the plan must.
  GradientReducer(Communicator& communicator, const FlatParameters& parameters, const SumPlan& plan,
                  const ReducerOptions& options = {});
  ~GradientReducer();
  GradientReducer(const GradientReducer&) = delete;
  GradientReducer& operator=(const GradientReducer&) = delete;

  // A step: start_step(), then for each leaf of this rank, in order, start_leaf() and that many backward
  // passes: none where it has no samples. Gradients add up over the passes; buckets are handed in during the
  // last pass of the last leaf.
  void start_step();
  void start_leaf(int passes);

  // Collective, after the last pass: end_passes() hands in what is left, finish() returns once this rank's
  // slices hold the sum; it joins all that was started before it.
  void end_passes();
  Result finish();

  // Memory for the gradient of a parameter, of its shape, where the gradient that this pass gives will lie:
  // written there, it need not be copied. Undefined where that cannot be. Given out once a pass.
  at::Tensor lend(size_t parameter);

  // The squared norm of what the pass before gave, parameter by parameter as it came.
  double take_pass_squares() { return std::exchange(pass_squares_, 0); }

  bool is_used(size_t parameter) const { return used_[parameter]; }  // by a leaf of this rank, this step
  size_t handed_in() const { return next_bucket_; }                  // buckets of this step, so far
  int64_t copied() const { return copied_; }                         // gradients of this step, into their row
  at::Tensor gradient() const { return parts_.select(0, 0); }        // [layout.size()]; valid in slices()
  const std::vector<Range>& slices() const { return slices_; }       // this rank's, one a bucket
  const std::vector<Range>& buckets() const { return buckets_; }

 private:
  friend class GradientHook;

  void add(size_t parameter, const at::Tensor& gradient);
  void add_nothing(size_t parameter);
  void end_parameter(size_t parameter);
  void end_leaf();
  void hand_in_ready();

  Communicator& communicator_;
  const FlatParameters& parameters_;
  const SumPlan& plan_;
  const bool measures_passes_;
  double pass_squares_ = 0;
  at::Tensor parts_, squares_;                   // [rows, layout.size()], [blocks]
  std::vector<std::vector<at::Tensor>> places_;  // by row and parameter: views, of the parameter's shape
  std::vector<Range> buckets_, slices_;
  std::vector<size_t> bucket_of_;  // by parameter
  std::vector<int> bucket_size_;   // parameters in it

  // Of the step that runs.
  std::vector<Subtree> rows_;  // the sums of the leaves before this one, row by row
  std::vector<bool> used_;     // by parameter
  std::vector<int> missing_;   // by bucket: parameters that have not given all their gradients
  size_t next_bucket_ = 0;
  int64_t copied_ = 0;

  // Of the leaf that runs.
  int leaf_ = 0, passes_ = 0;
  int row_ = 0;             // where its gradient goes
  bool adds_ = false;       // to the sum in that row, which it then is part of
  int last_row_ = 0;        // where the sum ends up: rows from row_ down to it are merged
  std::vector<int> seen_;   // by parameter: passes that gave a gradient
  std::vector<bool> lent_;  // by parameter: in this pass
};

}  // namespace rekindle
