// SPDX-License-Identifier: Apache-2.0
#include "optimizers/optimizer.h"

#include <ATen/ops/_fused_adamw.h>
#include <ATen/ops/_fused_sgd.h>
#include <ATen/ops/full.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <optional>

#include "core/error.h"
#include "optimizers/glob.h"

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
  void update(Lists& lists, double lr, double weight_decay,
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
  void update(Lists& lists, double lr, double weight_decay,
              const std::optional<at::Tensor>& divisor) override {
    const std::vector<at::Tensor> count(lists.parameters.size(),
                                        at::full({}, static_cast<float>(steps_), at::kFloat));
    at::_fused_adamw_(lists.parameters, lists.gradients, lists.moments[0], lists.moments[1], {}, count, lr,
                      options_.beta1, options_.beta2, weight_decay, options_.eps, /*amsgrad=*/false,
                      /*maximize=*/false, divisor, std::nullopt);
  }
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
    : options_(options), moment_names_(std::move(moment_names)) {
  decayed_.moments.resize(moment_names_.size());
  plain_.moments.resize(moment_names_.size());
  const auto runs = runs_of_decay(options, layout);
  for (const Range& slice : slices) {
    for (const auto& [run, decay] : runs) {
      const Range range = slice.intersect(run);
      if (range.empty()) continue;
      Segment segment{range,
                      decay,
                      parameters.narrow(0, range.begin, range.size()),
                      gradient.narrow(0, range.begin, range.size()),
                      {}};
      Lists& lists = decay ? decayed_ : plain_;
      lists.parameters.push_back(segment.parameter);
      lists.gradients.push_back(segment.gradient);
      for (size_t m = 0; m < moment_names_.size(); ++m) {
        segment.moments.push_back(at::zeros({range.size()}, at::kFloat));
        lists.moments[m].push_back(segment.moments.back());
      }
      segments_.push_back(std::move(segment));
    }
  }
}

void Optimizer::step(double lr, double gradient_divisor) {
  ++steps_;
  std::optional<at::Tensor> divisor;
  if (gradient_divisor != 1) divisor = at::full({}, gradient_divisor, at::kFloat);
  if (!decayed_.parameters.empty()) update(decayed_, lr, options_.weight_decay, divisor);
  if (!plain_.parameters.empty()) update(plain_, lr, 0, divisor);
}

}  // namespace rekindle
