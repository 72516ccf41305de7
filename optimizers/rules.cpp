// SPDX-License-Identifier: Apache-2.0
#include "optimizers/rules.h"

#include <ATen/ops/_fused_adam.h>
#include <ATen/ops/_fused_adamw.h>
#include <ATen/ops/_fused_sgd.h>
#include <ATen/ops/sqrt.h>

#include <algorithm>
#include <cmath>

#include "core/squares.h"

namespace rekindle {
Sgd::Sgd(const OptimizerOptions& options, const FlatLayout& layout, const at::Tensor& parameters,
         const at::Tensor& gradient, const std::vector<Range>& slices)
    : Optimizer(options, layout, parameters, gradient, slices) {}

void Sgd::apply(Lists& lists, const Step& step) {
  const std::vector<at::Tensor> none;
  // A buffer of zeros makes PyTorch's first step (buffer = gradient) like any other, so is_first_step stays
  // false.
  at::_fused_sgd_(lists.parameters, lists.gradients, lists.moments.empty() ? none : lists.moments[0],
                  step.weight_decay, step.momentum, step.lr, /*dampening=*/0, options_.nesterov,
                  /*maximize=*/false, /*is_first_step=*/false, step.divisor, std::nullopt);
}

Adam::Adam(const OptimizerOptions& options, const FlatLayout& layout, const at::Tensor& parameters,
           const at::Tensor& gradient, const std::vector<Range>& slices)
    : Optimizer(options, layout, parameters, gradient, slices) {}

std::vector<at::Tensor> Adam::counts_of(const Lists& lists) const {
  std::vector<at::Tensor> tensors;
  for (size_t i = 0; i < lists.counts.size(); ++i) {
    const bool again = i > 0 && lists.counts[i] == lists.counts[i - 1];
    tensors.push_back(again ? tensors.back() : scalar(static_cast<double>(lists.counts[i])));
  }
  return tensors;
}

void Adam::apply(Lists& lists, const Step& step) {
  at::_fused_adam_(lists.parameters, lists.gradients, lists.moments[0], lists.moments[1], {},
                   counts_of(lists), step.lr, step.momentum, options_.beta2, step.weight_decay, options_.eps,
                   /*amsgrad=*/false,
                   /*maximize=*/false, step.divisor, std::nullopt);
}

void AdamW::apply(Lists& lists, const Step& step) {
  at::_fused_adamw_(lists.parameters, lists.gradients, lists.moments[0], lists.moments[1], {},
                    counts_of(lists), step.lr, step.momentum, options_.beta2, step.weight_decay, options_.eps,
                    /*amsgrad=*/false,
                    /*maximize=*/false, step.divisor, std::nullopt);
}

void LayerWise::add_squares(Row row, const at::Tensor& values, Range range) {
  if (!values.is_cpu()) {  // whole blocks, as everywhere
    const at::Tensor blocks = values.view({-1, kBlock}).to(at::kDouble).square().sum(1);
    squares_[row].narrow(0, range.begin / kBlock, blocks.numel()).add_(blocks.to(at::kCPU));
    return;
  }
  const float* const from = values.const_data_ptr<float>();
  double* const to = squares_.data_ptr<double>() + row * layout_.blocks();
  for (int64_t at = range.begin; at < range.end;) {
    const int64_t end = std::min(range.end, (at / kBlock + 1) * kBlock);
    to[at / kBlock] += sum_of_squares(from + (at - range.begin), end - at);
    at = end;
  }
}

double LayerWise::norm(Row row, Range parameter) const {
  const double* const from = squares_.const_data_ptr<double>() + row * layout_.blocks();
  double sum = 0;
  for (int64_t block = parameter.begin / kBlock; block * kBlock < parameter.end; ++block) sum += from[block];
  return std::sqrt(sum);
}

template <typename Visit>
void LayerWise::for_each_parameter(Range range, const Visit& visit) const {
  const auto& entries = layout_.entries();
  const auto begins_behind = [](int64_t place, const FlatLayout::Entry& entry) {
    return place < entry.range.begin;
  };
  const auto first = std::upper_bound(entries.begin(), entries.end(), range.begin, begins_behind) - 1;
  for (auto entry = first; entry != entries.end() && entry->range.begin < range.end; ++entry) {
    const bool last = entry + 1 == entries.end();
    const Range with_padding{entry->range.begin, last ? layout_.size() : (entry + 1)->range.begin};
    visit(range.intersect(with_padding), norm(kParameter, entry->range), norm(kOther, entry->range));
  }
}

Lars::Lars(const OptimizerOptions& options, const FlatLayout& layout, const at::Tensor& parameters,
           const at::Tensor& gradient, const std::vector<Range>& slices)
    : LayerWise(options, layout, parameters, gradient, slices) {}

void Lars::measure(Lists& lists, const Step& step) {
  if (!step.adapts) return;
  for (size_t i = 0; i < lists.ranges.size(); ++i) {
    add_squares(kParameter, lists.parameters[i], lists.ranges[i]);
    add_squares(kOther, lists.gradients[i], lists.ranges[i]);
  }
}

void Lars::apply(Lists& lists, const Step& step) {
  for (size_t i = 0; i < lists.ranges.size(); ++i) {
    const Range whole = lists.ranges[i];
    for_each_parameter(whole, [&](Range part, double weight, double summed_gradient) {
      const double gradient = summed_gradient / step.divisor_value;
      double ratio = 1;
      if (step.adapts && weight > 0 && gradient > 0)
        ratio = options_.trust_coefficient * weight / (gradient + step.weight_decay * weight);
      for_each_piece(part, lists.parameters[i].is_cpu(), [&](Range piece) {
        const auto cut = [&](const at::Tensor& list) {
          return list.narrow(0, piece.begin - whole.begin, piece.size());
        };
        const at::Tensor parameter = cut(lists.parameters[i]), velocity = cut(lists.moments[0][i]);
        velocity.mul_(step.momentum).add_(cut(lists.gradients[i]), step.lr * ratio / step.divisor_value);
        if (step.weight_decay != 0) velocity.add_(parameter, step.lr * ratio * step.weight_decay);
        parameter.sub_(velocity);
      });
    });
  }
}

Lamb::Lamb(const OptimizerOptions& options, const FlatLayout& layout, const at::Tensor& parameters,
           const at::Tensor& gradient, const std::vector<Range>& slices)
    : LayerWise(options, layout, parameters, gradient, slices, /*with_scratch=*/true) {}

void Lamb::measure(Lists& lists, const Step& step) {
  for (size_t i = 0; i < lists.ranges.size(); ++i) {
    const auto count = static_cast<double>(lists.counts[i]);
    const double first = 1 - std::pow(step.momentum, count), second = 1 - std::pow(options_.beta2, count);
    for_each_piece(lists.ranges[i], lists.parameters[i].is_cpu(), [&](Range piece) {
      const auto cut = [&](const at::Tensor& whole) {
        return whole.narrow(0, piece.begin - lists.ranges[i].begin, piece.size());
      };
      at::Tensor gradient = cut(lists.gradients[i]), direction = cut(lists.scratch[i]);
      const at::Tensor average = cut(lists.moments[0][i]), squared = cut(lists.moments[1][i]);
      if (step.divisor) gradient.div_(step.divisor_value);
      average.lerp_(gradient, 1 - step.momentum);
      squared.mul_(options_.beta2).addcmul_(gradient, gradient, 1 - options_.beta2);
      at::sqrt_out(direction, squared).div_(std::sqrt(second)).add_(options_.eps).reciprocal_();
      direction.mul_(average).div_(first);
      const at::Tensor parameter = cut(lists.parameters[i]);
      if (step.weight_decay != 0) direction.add_(parameter, step.weight_decay);
      if (!step.adapts) return;
      add_squares(kParameter, parameter, piece);
      add_squares(kOther, direction, piece);
    });
  }
}

void Lamb::apply(Lists& lists, const Step& step) {
  for (size_t i = 0; i < lists.ranges.size(); ++i) {
    const Range whole = lists.ranges[i];
    for_each_parameter(whole, [&](Range part, double weight, double direction) {
      const double ratio = step.adapts && weight > 0 && direction > 0 ? weight / direction : 1;
      for_each_piece(part, lists.parameters[i].is_cpu(), [&](Range piece) {
        const int64_t begin = piece.begin - whole.begin;
        lists.parameters[i]
            .narrow(0, begin, piece.size())
            .add_(lists.scratch[i].narrow(0, begin, piece.size()), -step.lr * ratio);
      });
    });
  }
}

}  // namespace rekindle
