// SPDX-License-Identifier: Apache-2.0
#include "optimizers/optimizer.h"

#include <ATen/ops/_fused_adamw.h>
#include <ATen/ops/_fused_sgd.h>
#include <ATen/ops/full.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <optional>

#include "core/error.h"
#include "core/text.h"

namespace rekindle {
namespace {

class Sgd : public Optimizer {
 public:
  Sgd(const OptimizerOptions& options, const FlatLayout& layout, const at::Tensor& parameters,
      const at::Tensor& gradient, const std::vector<Range>& slices)
      : Optimizer(options, layout, parameters, gradient, slices,
                  options.momentum != 0 ? std::vector<std::string>{"momentum_buffer"}
                                        : std::vector<std::string>{}) {}

 private:
  void apply(Lists& lists, double lr, double weight_decay,
             const std::optional<at::Tensor>& divisor) override {
    const std::vector<at::Tensor> none;
    // A buffer of zeros makes PyTorch's first step (buffer = gradient) like any other, so is_first_step stays
    // false.
    at::_fused_sgd_(lists.parameters, lists.gradients, lists.moments.empty() ? none : lists.moments[0],
                    weight_decay, options_.momentum, lr, /*dampening=*/0, options_.nesterov,
                    /*maximize=*/false,
                    /*is_first_step=*/false, divisor, std::nullopt);
  }
};

class AdamW : public Optimizer {
 public:
  AdamW(const OptimizerOptions& options, const FlatLayout& layout, const at::Tensor& parameters,
        const at::Tensor& gradient, const std::vector<Range>& slices)
      : Optimizer(options, layout, parameters, gradient, slices, {"exp_avg", "exp_avg_sq"}) {}

 private:
  void apply(Lists& lists, double lr, double weight_decay,
             const std::optional<at::Tensor>& divisor) override {
    const std::vector<at::Tensor> count(lists.parameters.size(), count_);
    at::_fused_adamw_(lists.parameters, lists.gradients, lists.moments[0], lists.moments[1], {}, count, lr,
                      options_.beta1, options_.beta2, weight_decay, options_.eps, /*amsgrad=*/false,
                      /*maximize=*/false, divisor, std::nullopt);
  }
  void prepare_step() override { count_ = scalar(static_cast<double>(steps_)); }

  at::Tensor count_;
};

// The line cut where weight decay starts or ends to apply. Padding goes with the parameter before it: it is
// zero and stays zero, and whole blocks keep the kernels on the same vector path on any number of workers.
std::vector<std::pair<Range, bool>> runs_of_decay(const OptimizerOptions& options, const FlatLayout& layout) {
  std::vector<std::pair<Range, bool>> runs;
  const auto& entries = layout.entries();
  for (size_t i = 0; i < entries.size(); ++i) {
    const int64_t end = i + 1 < entries.size() ? entries[i + 1].range.begin : layout.size();
    const bool decay = options.weight_decay != 0 && decays(options, entries[i]);
    if (!runs.empty() && runs.back().second == decay) {
      runs.back().first.end = end;
    } else {
      runs.push_back({{entries[i].range.begin, end}, decay});
    }
  }
  return runs;
}

}  // namespace

bool decays(const OptimizerOptions& options, const FlatLayout::Entry& parameter) {
  if (!options.no_decay) return parameter.shape.size() > 1;
  return std::none_of(options.no_decay->begin(), options.no_decay->end(),
                      [&](const std::string& pattern) { return matches_glob(pattern, parameter.name); });
}

std::unique_ptr<Optimizer> Optimizer::create(const OptimizerOptions& options, const FlatLayout& layout,
                                             const at::Tensor& parameters, const at::Tensor& gradient,
                                             const std::vector<Range>& slices) {
  if (options.name == "sgd") return std::make_unique<Sgd>(options, layout, parameters, gradient, slices);
  if (options.name == "adamw") return std::make_unique<AdamW>(options, layout, parameters, gradient, slices);
  throw bad_input("there is no optimizer '" + options.name + "'", "optimizer.name",
                  "sgd and adamw are built in");
}

Optimizer::Optimizer(const OptimizerOptions& options, const FlatLayout& layout, const at::Tensor& parameters,
                     const at::Tensor& gradient, const std::vector<Range>& slices,
                     std::vector<std::string> moment_names)
    : options_(options), device_(parameters.device()), moment_names_(std::move(moment_names)) {
  const auto runs = runs_of_decay(options, layout);
  for (size_t s = 0; s < slices.size(); ++s) {
    for (const auto& [run, decay] : runs) {
      const Range range = slices[s].intersect(run);
      if (range.empty()) continue;
      Segment segment{range,
                      s,
                      decay,
                      parameters.narrow(0, range.begin, range.size()),
                      gradient.narrow(0, range.begin, range.size()),
                      {}};
      for (size_t m = 0; m < moment_names_.size(); ++m) {
        segment.moments.push_back(at::zeros({range.size()}, parameters.options()));
      }
      segments_.push_back(std::move(segment));
    }
    slices_.push_back(lists_of(s));
  }
}

void Optimizer::add_to(Lists& lists, const Segment& segment, Range part) {
  const auto cut = [&](const at::Tensor& whole) {
    return whole.narrow(0, part.begin - segment.range.begin, part.size());
  };
  lists.parameters.push_back(cut(segment.parameter));
  lists.gradients.push_back(cut(segment.gradient));
  lists.moments.resize(segment.moments.size());
  for (size_t m = 0; m < segment.moments.size(); ++m) lists.moments[m].push_back(cut(segment.moments[m]));
}

Optimizer::Slice Optimizer::lists_of(size_t slice) const {
  Slice lists;
  for (const Segment& segment : segments_) {
    if (segment.slice != slice) continue;
    Range rest = segment.range;
    for (const Range& hole : untouched_) {
      const Range part = Range{rest.begin, hole.begin}.intersect(rest);
      if (!part.empty()) add_to(segment.decay ? lists.decayed : lists.plain, segment, part);
      rest.begin = std::max(rest.begin, hole.end);
    }
    if (!rest.empty()) add_to(segment.decay ? lists.decayed : lists.plain, segment, rest);
  }
  return lists;
}

at::Tensor Optimizer::scalar(double value) const {
  return at::full({}, value, at::TensorOptions(device_).dtype(at::kFloat));
}

void Optimizer::start_step(double lr, double gradient_divisor, std::vector<Range> untouched) {
  ++steps_;
  lr_ = lr;
  divisor_.reset();
  if (gradient_divisor != 1) divisor_ = scalar(gradient_divisor);
  untouched_ = std::move(untouched);
  prepare_step();
}

void Optimizer::update(size_t slice) {
  Slice rest;
  if (!untouched_.empty()) rest = lists_of(slice);
  Slice& lists = untouched_.empty() ? slices_[slice] : rest;
  if (!lists.decayed.parameters.empty()) apply(lists.decayed, lr_, options_.weight_decay, divisor_);
  if (!lists.plain.parameters.empty()) apply(lists.plain, lr_, 0, divisor_);
}

}  // namespace rekindle
