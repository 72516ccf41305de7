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
  if (!options.ema_half_life.is_zero()) moment_names_.emplace_back(kOtherWeights);
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
      if (!options.ema_half_life.is_zero()) segment.average = segment.moments.back();
      if (with_scratch) segment.scratch = at::zeros({range.size()}, parameters.options());
      segments_.push_back(std::move(segment));
    }
    slices_.push_back(lists_of(s));
  }
}

void Optimizer::add_to(Lists& lists, const Segment& segment, Range part, int64_t missed) const {
  if (part.empty()) return;
  const auto cut = [&](const at::Tensor& whole) {
    return whole.narrow(0, part.begin - segment.range.begin, part.size());
  };
  lists.ranges.push_back(part);
  lists.counts.push_back(steps_ - missed);
  lists.parameters.push_back(cut(segment.parameter));
  lists.gradients.push_back(cut(segment.gradient));
  if (segment.scratch.defined()) lists.scratch.push_back(cut(segment.scratch));
  const size_t of_rule = segment.moments.size() - segment.average.defined();
  lists.moments.resize(of_rule);
  for (size_t m = 0; m < of_rule; ++m) lists.moments[m].push_back(cut(segment.moments[m]));
}

Optimizer::Slice Optimizer::lists_of(size_t slice) const {
  Slice lists(treatments_.size());
  for (const Segment& segment : segments_) {
    if (segment.slice != slice) continue;
    Range rest = segment.range;
    Lists& list = lists[segment.treatment];
    for (const auto& [begin, late] : late_) {
      if (late.end <= rest.begin || begin >= segment.range.end) continue;
      add_to(list, segment, Range{rest.begin, begin}.intersect(rest), 0);
      if (!late.now) add_to(list, segment, Range{begin, late.end}.intersect(rest), late.missed);
      rest.begin = std::max(rest.begin, late.end);
    }
    add_to(list, segment, rest, 0);
  }
  return lists;
}

at::Tensor Optimizer::scalar(double value) const {
  return at::full({}, value, at::TensorOptions(device_).dtype(at::kFloat));
}

void Optimizer::start_step(Settings settings) {
  ++steps_;
  settings_ = std::move(settings);
  divisor_.reset();
  if (settings_.gradient_divisor != 1) divisor_ = scalar(settings_.gradient_divisor);
  const std::map<int64_t, Late> before = late_;
  for (auto& [begin, late] : late_) late.now = false;
  for (const Range& range : settings_.untouched) {
    Late& late = late_[range.begin];
    late = {range.end, late.missed + 1, true};
  }
  const auto is_cut_alike = [](const auto& one, const auto& other) {
    return one.first == other.first && one.second.now == other.second.now &&
           (one.second.now || one.second.missed == other.second.missed);
  };
  if (!std::ranges::equal(late_, before, is_cut_alike)) return make_lists();
  for (Slice& slice : slices_)
    for (Lists& lists : slice)
      for (int64_t& count : lists.counts) ++count;
}

void Optimizer::make_lists() {
  for (size_t slice = 0; slice < slices_.size(); ++slice) slices_[slice] = lists_of(slice);
}

std::map<std::string, int64_t> Optimizer::missed_steps() const {
  std::map<std::string, int64_t> missed;
  for (const FlatLayout::Entry& entry : layout_.entries())
    if (const auto late = late_.find(entry.range.begin); late != late_.end())
      missed[entry.name] = late->second.missed;
  return missed;
}

void Optimizer::set_steps(int64_t steps, const std::map<std::string, int64_t>& missed) {
  steps_ = steps;
  late_.clear();
  const auto& entries = layout_.entries();
  for (size_t i = 0; i < entries.size(); ++i) {
    const auto found = missed.find(entries[i].name);
    if (found == missed.end() || found->second == 0) continue;
    const int64_t end = i + 1 < entries.size() ? entries[i + 1].range.begin : layout_.size();
    late_[entries[i].range.begin] = {end, found->second, false};
  }
  make_lists();
}

template <typename Do>
void Optimizer::for_each(size_t slice, const Do& something) {
  Slice& all = slices_[slice];
  const double momentum =
      settings_.momentum.value_or(has_betas(options_.name) ? options_.beta1 : options_.momentum);
  for (size_t t = 0; t < treatments_.size(); ++t) {
    const Treatment& treatment = treatments_[t];
    if (!all[t].parameters.empty())
      something(all[t], Step{settings_.lr * treatment.lr_factor, treatment.weight_decay, momentum,
                             treatment.adapts, settings_.gradient_divisor, divisor_});
  }
}

void Optimizer::measure() {
  if (!squares_.defined()) squares_ = at::zeros({2, layout_.blocks()}, at::kDouble);
  squares_.zero_();
  for (size_t slice = 0; slice < slices_.size(); ++slice)
    for_each(slice, [this](Lists& lists, const Step& step) {
      clip_values(lists);
      measure(lists, step);
    });
}

void Optimizer::clip_values(Lists& lists) const {
  const double most = options_.max_grad_value * settings_.gradient_divisor;
  if (most == 0) return;
  for (at::Tensor& gradient : lists.gradients) gradient.clamp_(-most, most);
}

void Optimizer::update(size_t slice) {
  for_each(slice, [this](Lists& lists, const Step& step) {
    if (!looks_at_norms()) clip_values(lists);
    apply(lists, step);
  });
  for (const Segment& segment : segments_) {
    if (segment.slice != slice || !segment.average.defined()) continue;
    for_each_piece({0, segment.range.size()}, segment.parameter.is_cpu(), [&](Range piece) {
      const auto cut = [&](const at::Tensor& whole) { return whole.narrow(0, piece.begin, piece.size()); };
      cut(segment.average).lerp_(cut(segment.parameter), settings_.average_share);
    });
  }
}

void Optimizer::start_average() {
  for (const Segment& segment : segments_)
    if (segment.average.defined()) segment.average.copy_(segment.parameter);
}

void Optimizer::swap_average() {
  for (const Segment& segment : segments_) {
    if (!segment.average.defined()) continue;
    for_each_piece({0, segment.range.size()}, segment.parameter.is_cpu(), [&](Range piece) {
      const at::Tensor average = segment.average.narrow(0, piece.begin, piece.size());
      const at::Tensor weights = segment.parameter.narrow(0, piece.begin, piece.size());
      const at::Tensor held = weights.clone();
      weights.copy_(average);
      average.copy_(held);
    });
  }
}

}  // namespace rekindle
