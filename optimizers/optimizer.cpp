// SPDX-License-Identifier: Apache-2.0
#include "optimizers/optimizer.h"

#include <ATen/ops/full.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <optional>

#include "core/error.h"
#include "optimizers/rules.h"

namespace rekindle {
namespace {

// The line cut where another treatment begins. Padding goes with the parameter before it: it is zero and
// stays zero, and whole blocks keep the kernels on the same vector path on any number of workers.
std::vector<std::pair<Range, Treatment>> stretches(const OptimizerOptions& options,
                                                   const FlatLayout& layout) {
  std::vector<std::pair<Range, Treatment>> runs;
  const std::vector<Treatment> by_parameter = treatments(options, layout);
  const auto& entries = layout.entries();
  for (size_t i = 0; i < entries.size(); ++i) {
    const int64_t end = i + 1 < entries.size() ? entries[i + 1].range.begin : layout.size();
    if (!runs.empty() && runs.back().second == by_parameter[i]) {
      runs.back().first.end = end;
    } else {
      runs.push_back({{entries[i].range.begin, end}, by_parameter[i]});
    }
  }
  return runs;
}

}  // namespace

std::unique_ptr<Optimizer> Optimizer::create(const OptimizerOptions& options, const FlatLayout& layout,
                                             const at::Tensor& parameters, const at::Tensor& gradient,
                                             const std::vector<Range>& slices) {
  const auto make = [&]<typename Rule>(std::type_identity<Rule>) -> std::unique_ptr<Optimizer> {
    return std::make_unique<Rule>(options, layout, parameters, gradient, slices);
  };
  if (options.name == "sgd") return make(std::type_identity<Sgd>());
  if (options.name == "adam") return make(std::type_identity<Adam>());
  if (options.name == "adamw") return make(std::type_identity<AdamW>());
  if (options.name == "lars") return make(std::type_identity<Lars>());
  if (options.name == "lamb") return make(std::type_identity<Lamb>());
  throw bad_input("there is no optimizer '" + options.name + "'", "optimizer.name",
                  "sgd, adam, adamw, lars and lamb are built in");
}

Optimizer::Optimizer(const OptimizerOptions& options, const FlatLayout& layout, const at::Tensor& parameters,
                     const at::Tensor& gradient, const std::vector<Range>& slices, bool with_scratch)
    : options_(options),
      layout_(layout),
      device_(parameters.device()),
      moment_names_(moment_names_of(options)) {
  const auto runs = stretches(options, layout);
  for (const auto& [run, treatment] : runs) {
    if (std::ranges::count(treatments_, treatment) == 0) treatments_.push_back(treatment);
  }
  for (size_t s = 0; s < slices.size(); ++s) {
    for (const auto& [run, treatment] : runs) {
      const Range range = slices[s].intersect(run);
      if (range.empty()) continue;
      Segment segment;
      segment.range = range;
      segment.slice = s;
      segment.treatment = std::ranges::find(treatments_, treatment) - treatments_.begin();
      segment.parameter = parameters.narrow(0, range.begin, range.size());
      segment.gradient = gradient.narrow(0, range.begin, range.size());
      for (size_t m = 0; m < moment_names_.size(); ++m)
        segment.moments.push_back(at::zeros({range.size()}, parameters.options()));
      if (with_scratch) segment.scratch = at::zeros({range.size()}, parameters.options());
      segments_.push_back(std::move(segment));
    }
    slices_.push_back(lists_of(s));
  }
}

void Optimizer::add_to(Lists& lists, const Segment& segment, Range part) {
  const auto cut = [&](const at::Tensor& whole) {
    return whole.narrow(0, part.begin - segment.range.begin, part.size());
  };
  lists.ranges.push_back(part);
  lists.parameters.push_back(cut(segment.parameter));
  lists.gradients.push_back(cut(segment.gradient));
  if (segment.scratch.defined()) lists.scratch.push_back(cut(segment.scratch));
  lists.moments.resize(segment.moments.size());
  for (size_t m = 0; m < segment.moments.size(); ++m) lists.moments[m].push_back(cut(segment.moments[m]));
}

Optimizer::Slice Optimizer::lists_of(size_t slice) const {
  Slice lists(treatments_.size());
  for (const Segment& segment : segments_) {
    if (segment.slice != slice) continue;
    Range rest = segment.range;
    for (const Range& hole : untouched_) {
      const Range part = Range{rest.begin, hole.begin}.intersect(rest);
      if (!part.empty()) add_to(lists[segment.treatment], segment, part);
      rest.begin = std::max(rest.begin, hole.end);
    }
    if (!rest.empty()) add_to(lists[segment.treatment], segment, rest);
  }
  return lists;
}

at::Tensor Optimizer::scalar(double value) const {
  return at::full({}, value, at::TensorOptions(device_).dtype(at::kFloat));
}

void Optimizer::start_step(double lr, double gradient_divisor, std::vector<Range> untouched) {
  ++steps_;
  lr_ = lr;
  divisor_value_ = gradient_divisor;
  divisor_.reset();
  if (gradient_divisor != 1) divisor_ = scalar(gradient_divisor);
  untouched_ = std::move(untouched);
  prepare_step();
}

template <typename Do>
void Optimizer::for_each(size_t slice, const Do& something) {
  Slice rest;
  if (!untouched_.empty()) rest = lists_of(slice);
  Slice& all = untouched_.empty() ? slices_[slice] : rest;
  for (size_t t = 0; t < treatments_.size(); ++t) {
    const Treatment& treatment = treatments_[t];
    if (!all[t].parameters.empty())
      something(all[t], Step{lr_ * treatment.lr_factor, treatment.weight_decay, treatment.adapts,
                             divisor_value_, divisor_});
  }
}

void Optimizer::measure() {
  if (!squares_.defined()) squares_ = at::zeros({2, layout_.blocks()}, at::kDouble);
  squares_.zero_();
  for (size_t slice = 0; slice < slices_.size(); ++slice)
    for_each(slice, [this](Lists& lists, const Step& step) { measure(lists, step); });
}

void Optimizer::update(size_t slice) {
  for_each(slice, [this](Lists& lists, const Step& step) { apply(lists, step); });
}

}  // namespace rekindle
