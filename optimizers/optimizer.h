// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <ATen/core/Tensor.h>

#include <algorithm>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "core/flat_layout.h"
#include "optimizers/groups.h"
#include "optimizers/options.h"

namespace rekindle {

// Updates the part of the flat parameters that this rank owns, from the same part of the summed gradient; its
// state exists for that part alone. So each rank does 1/world of the work and holds 1/world of the moments.
// SGD, Adam and AdamW run on ATen's fused kernels, whose arithmetic is that of torch.optim. It does not
// communicate.
class Optimizer {
 public:
  // What a step is made with.
  struct Settings {
    double lr;
    double gradient_divisor = 1;          // for clipping and loss scales
    std::optional<double> momentum = {};  // or Adam's beta1; none: that of the options
    double average_share = 0;             // of the new weights in their average
    std::vector<Range> untouched = {};    // what the step leaves as it is, with its moments
  };

  // A stretch of the flat line whose elements are all updated alike.
  struct Segment {
    Range range;
    size_t slice;                     // that it is part of
    size_t treatment;                 // in treatments()
    at::Tensor parameter, gradient;   // views, [range.size()]
    std::vector<at::Tensor> moments;  // [range.size()], float32, in the order of moment_names()
    at::Tensor average;               // the last of them; undefined where there is none
    at::Tensor scratch;               // the same, of a step, for rules that need it
  };

  // `parameters` and `gradient` are the flat lines, [layout.size()]; `slices` what this rank owns of them.
  static std::unique_ptr<Optimizer> create(const OptimizerOptions& options, const FlatLayout& layout,
                                           const at::Tensor& parameters, const at::Tensor& gradient,
                                           const std::vector<Range>& slices);
  virtual ~Optimizer() = default;
  Optimizer(const Optimizer&) = delete;
  Optimizer& operator=(const Optimizer&) = delete;

  // One update: start_step(), then update() for every slice, in any order. The gradient is divided by
  // `gradient_divisor` first (and written back so, where that is not 1): clipping rides on the update.
  // `untouched` is empty, but for parameters that the step did not use.
  void start_step(Settings settings);
  void update(size_t slice);

  // Rules that look at whole parameters (LARS, LAMB) need sums over all ranks in between: measure(), which
  // sets squares() for what this rank owns and the rest to 0, then whoever runs the loop adds it over the
  // ranks. A block is one rank's, so the sum has the same bits in any order, on any number of ranks.
  virtual bool looks_at_norms() const { return false; }
  void measure();
  at::Tensor& squares() { return squares_; }  // [2, layout.blocks()], float64, on the CPU

  // Of averaged weights, kept where options.ema_half_life is not zero: the average starts where the weights
  // are. swap_average() has weights and average change places, in what this rank owns.
  void start_average();
  void swap_average();

  int64_t steps() const { return steps_; }
  // How many of them left a parameter untouched, by its name: as PyTorch, Adam and LAMB count those that it
  // took part in.
  std::map<std::string, int64_t> missed_steps() const;
  void set_steps(int64_t steps, const std::map<std::string, int64_t>& missed = {});  // of a resumed run

  // The state, by PyTorch's names ("momentum_buffer", "exp_avg", "exp_avg_sq"), and kOtherWeights.
  const std::vector<std::string>& moment_names() const { return moment_names_; }
  const std::vector<Segment>& segments() const { return segments_; }

 protected:
  // Parts of the slice that are treated alike, as a fused kernel takes them: the same place of every list
  // belongs together.
  struct Lists {
    std::vector<Range> ranges;
    std::vector<int64_t> counts;  // steps that each part has taken part in, with this one
    std::vector<at::Tensor> parameters, gradients, scratch;
    std::vector<std::vector<at::Tensor>> moments;  // [moment][part]
  };
  // Of a step: what a rule's formula speaks of.
  struct Step {
    double lr, weight_decay, momentum;
    bool adapts;
    double divisor_value;
    const std::optional<at::Tensor>& divisor;  // as a tensor; none: 1
  };

  Optimizer(const OptimizerOptions& options, const FlatLayout& layout, const at::Tensor& parameters,
            const at::Tensor& gradient, const std::vector<Range>& slices, bool with_scratch = false);

  virtual void apply(Lists& lists, const Step& step) = 0;
  virtual void measure(Lists&, const Step&) {}
  void clip_values(Lists& lists) const;
  at::Tensor scalar(double value) const;  // float32, where the parameters are, as kernels ask for it

  // On the processor, so few elements at a time that they stay in its cache from one operation to the next,
  // and that ATen gives them to one thread: it would cut them where a vector does not end, and there a
  // rounding may differ.
  template <typename Visit>
  static void for_each_piece(Range range, bool on_cpu, const Visit& visit);

  const OptimizerOptions options_;
  const FlatLayout& layout_;
  int64_t steps_ = 0;
  at::Tensor squares_;

 private:
  using Slice = std::vector<Lists>;  // by treatment

  // A parameter that has missed steps, or misses this one.
  struct Late {
    int64_t end = 0;  // of its range, with the padding
    int64_t missed = 0;
    bool now = false;
  };

  void add_to(Lists& lists, const Segment& segment, Range part, int64_t missed) const;
  Slice lists_of(size_t slice) const;  // without what is untouched
  void make_lists();
  template <typename Do>
  void for_each(size_t slice, const Do& something);

  at::Device device_;
  std::vector<std::string> moment_names_;
  std::vector<Treatment> treatments_;  // that differ
  std::vector<Segment> segments_;
  std::vector<Slice> slices_;     // as this step has them
  std::map<int64_t, Late> late_;  // by where the parameter begins

  // Of the step that runs.
  Settings settings_{.lr = 0};
  std::optional<at::Tensor> divisor_;
};

template <typename Visit>
void Optimizer::for_each_piece(Range range, bool on_cpu, const Visit& visit) {
  constexpr int64_t kPiece = 4 * kBlock;
  for (int64_t begin = range.begin; begin < range.end;) {
    const int64_t end = on_cpu ? std::min(range.end, begin + kPiece) : range.end;
    visit(Range{begin, end});
    begin = end;
  }
}

}  // namespace rekindle
