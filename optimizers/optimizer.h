// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "core/flat_layout.h"
#include "optimizers/options.h"

namespace rekindle {

// Updates the part of the flat parameters that this rank owns, from the same part of the summed gradient; its
// state exists for that part alone. So each rank does 1/world of the work and holds 1/world of the moments.
// It runs on ATen's fused kernels, whose arithmetic is that of torch.optim. It does not communicate.
class Optimizer {
 public:
  // A stretch of the flat line whose elements are all updated alike.
  struct Segment {
    Range range;
    size_t slice;                     // that it is part of
    bool decay;                       // whether weight decay applies
    at::Tensor parameter, gradient;   // views, [range.size()]
    std::vector<at::Tensor> moments;  // [range.size()], float32, in the order of moment_names()
  };

  // `parameters` and `gradient` are the flat lines, [layout.size()]; `slices` what this rank owns of them.
  static std::unique_ptr<Optimizer> create(const OptimizerOptions& options, const FlatLayout& layout,
                                           const at::Tensor& parameters, const at::Tensor& gradient,
                                           const std::vector<Range>& slices);
  virtual ~Optimizer() = default;
  Optimizer(const Optimizer&) = delete;
  Optimizer& operator=(const Optimizer&) = delete;

  // One update: start_step(), then update() for every slice, in any order. The gradient is divided by
  // `gradient_divisor` first (and written back so, where that is not 1): clipping rides on the update. What
  // lies in `untouched` stays as it is, with its moments; it is empty, but for parameters that the step did
  // not use.
  void start_step(double lr, double gradient_divisor = 1, std::vector<Range> untouched = {});
  void update(size_t slice);

  int64_t steps() const { return steps_; }
  void set_steps(int64_t steps) { steps_ = steps; }  // of a resumed run

  // The state, by PyTorch's names ("momentum_buffer", "exp_avg", "exp_avg_sq").
  const std::vector<std::string>& moment_names() const { return moment_names_; }
  const std::vector<Segment>& segments() const { return segments_; }

 protected:
  Optimizer(const OptimizerOptions& options, const FlatLayout& layout, const at::Tensor& parameters,
            const at::Tensor& gradient, const std::vector<Range>& slices,
            std::vector<std::string> moment_names);

  // What a fused kernel takes: the same place of every list belongs together.
  struct Lists {
    std::vector<at::Tensor> parameters, gradients;
    std::vector<std::vector<at::Tensor>> moments;  // [moment][segment]
  };
  virtual void apply(Lists& lists, double lr, double weight_decay,
                     const std::optional<at::Tensor>& divisor) = 0;
  // Where the kernels' arithmetic depends on the step, once for all its updates.
  virtual void prepare_step() {}

  at::Tensor scalar(double value) const;  // float32, where the parameters are, as kernels ask for it

  OptimizerOptions options_;
  int64_t steps_ = 0;

 private:
  at::Device device_;
  std::vector<std::string> moment_names_;
  std::vector<Segment> segments_;
  struct Slice {
    Lists decayed, plain;
  };
  static void add_to(Lists& lists, const Segment& segment, Range part);
  Slice lists_of(size_t slice) const;  // without what is untouched
  std::vector<Slice> slices_;

  // Of the step that runs.
  double lr_ = 0;
  std::optional<at::Tensor> divisor_;
  std::vector<Range> untouched_;
};

// Whether weight decay applies to a parameter (OptimizerOptions::no_decay).
bool decays(const OptimizerOptions& options, const FlatLayout::Entry& parameter);

}  // namespace rekindle
