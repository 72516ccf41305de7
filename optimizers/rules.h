// SPDX-License-Identifier: Apache-2.0
// The update rules that are built in.
#pragma once

#include <vector>

#include "optimizers/optimizer.h"

namespace rekindle {

class Sgd final : public Optimizer {
 public:
  Sgd(const OptimizerOptions& options, const FlatLayout& layout, const at::Tensor& parameters,
      const at::Tensor& gradient, const std::vector<Range>& slices);

 private:
  void apply(Lists& lists, const Step& step) override;
};

// Weight decay is part of the gradient.
class Adam : public Optimizer {
 public:
  Adam(const OptimizerOptions& options, const FlatLayout& layout, const at::Tensor& parameters,
       const at::Tensor& gradient, const std::vector<Range>& slices);

 protected:
  void apply(Lists& lists, const Step& step) override;

  std::vector<at::Tensor> counts_of(const Lists& lists) const;  // as the kernels take them
};

// Weight decay is apart from it (Loshchilov & Hutter 2019).
class AdamW final : public Adam {
 public:
  using Adam::Adam;

 private:
  void apply(Lists& lists, const Step& step) override;
};

// Rules that scale a parameter's update to its norm: see Optimizer::measure().
class LayerWise : public Optimizer {
 public:
  using Optimizer::Optimizer;
  bool looks_at_norms() const override { return true; }

 protected:
  enum Row { kParameter, kOther };  // of squares()

  void add_squares(Row row, const at::Tensor& values, Range range);  // by block
  // Visits what `range` holds of each parameter: visit(range in the line, norms of the whole parameter).
  template <typename Visit>
  void for_each_parameter(Range range, const Visit& visit) const;
  double norm(Row row, Range parameter) const;
};

// You, Gitman & Ginsburg 2017: v <- m v + lr r (g + d w), w <- w - v, where r = c |w| / (|g| + d |w|).
class Lars final : public LayerWise {
 public:
  Lars(const OptimizerOptions& options, const FlatLayout& layout, const at::Tensor& parameters,
       const at::Tensor& gradient, const std::vector<Range>& slices);

 private:
  void measure(Lists& lists, const Step& step) override;
  void apply(Lists& lists, const Step& step) override;
};

// You et al. 2020: u = Adam's direction + d w, w <- w - lr |w| / |u| u.
class Lamb final : public LayerWise {
 public:
  Lamb(const OptimizerOptions& options, const FlatLayout& layout, const at::Tensor& parameters,
       const at::Tensor& gradient, const std::vector<Range>& slices);

 private:
  void measure(Lists& lists, const Step& step) override;
  void apply(Lists& lists, const Step& step) override;
};

}  // namespace rekindle
