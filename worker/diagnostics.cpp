// SPDX-License-Identifier: Apache-2.0
#include "worker/diagnostics.h"

#include <ATen/ops/zeros.h>

#include <algorithm>
#include <cmath>

#include "core/squares.h"
#include "core/text.h"

namespace rekindle {
bool hear_noise(const PassSums& passes, double squared_norm, int64_t samples, ScheduleState& state) {
  if (passes.passes == 0) return false;
  const double small = passes.squares / passes.passes, inverse = passes.inverses / passes.passes;
  const double whole = 1 / static_cast<double>(samples);
  constexpr double kApart = 1e-6;
  if (inverse <= whole * (1 + kApart)) return false;
  const double noise = (small - squared_norm) / (inverse - whole);
  state.noise.add(noise);
  state.signal.add(squared_norm - noise * whole);
  return true;
}

std::optional<double> noise_scale(const ScheduleState& state) {
  if (state.noise.sum <= 0 || state.signal.sum <= 0) return std::nullopt;
  return state.noise.sum / state.signal.sum;  // both have seen the same steps
}

std::optional<double> steady_noise_scale(const ScheduleState& state) {
  constexpr double kEnough = 0.33;  // about twenty steps
  return state.noise.weight < kEnough ? std::nullopt : noise_scale(state);
}

std::optional<double> adascale_gain(const ScheduleState& state, int64_t base_batch, int64_t samples) {
  const std::optional<double> scale = noise_scale(state);
  if (!scale || base_batch == 0) return std::nullopt;
  return (*scale / static_cast<double>(base_batch) + 1) / (*scale / static_cast<double>(samples) + 1);
}

UpdateRatio::UpdateRatio(Communicator& communicator, const FlatLayout& layout,
                         const OptimizerOptions& options)
    : communicator_(communicator), layout_(layout) {
  for (const FlatLayout::Entry& entry : layout.entries()) {
    const GroupOptions* const group = group_of(options, entry.name);
    const std::string name = group ? enumerate(group->match) : options.groups.empty() ? "all" : "others";
    const auto known = std::ranges::find(names_, name);
    group_.push_back(known - names_.begin());
    if (known == names_.end()) names_.push_back(name);
  }
}

void UpdateRatio::before(const Optimizer& optimizer) {
  held_.clear();
  for (const Optimizer::Segment& segment : optimizer.segments()) held_.push_back(segment.parameter.clone());
}

std::vector<std::pair<std::string, double>> UpdateRatio::after(const Optimizer& optimizer) {
  enum { kWeights, kUpdates };
  const at::Tensor squares = at::zeros({2, layout_.blocks()}, at::kDouble);
  double* const weights = squares.data_ptr<double>();
  double* const updates = weights + layout_.blocks();
  for (size_t s = 0; s < held_.size(); ++s) {
    const Optimizer::Segment& segment = optimizer.segments()[s];
    const at::Tensor before = held_[s].to(at::kCPU);
    const at::Tensor moved = segment.parameter.sub(held_[s]).to(at::kCPU);
    for (int64_t at = segment.range.begin; at < segment.range.end; at += kBlock) {  // whole blocks
      const int64_t here = at - segment.range.begin, count = std::min(kBlock, segment.range.end - at);
      weights[at / kBlock] = sum_of_squares(before.const_data_ptr<float>() + here, count);
      updates[at / kBlock] = sum_of_squares(moved.const_data_ptr<float>() + here, count);
    }
  }
  held_.clear();
  communicator_.host().all_reduce(squares, Communicator::Op::kSum, "norms of the updates");
  std::vector<double> weight(names_.size()), update(names_.size());
  for (size_t i = 0; i < group_.size(); ++i) {
    const Range range = layout_.entries()[i].range;
    for (int64_t block = range.begin / kBlock; block * kBlock < range.end; ++block) {
      weight[group_[i]] += weights[block];
      update[group_[i]] += updates[block];
    }
  }
  std::vector<std::pair<std::string, double>> ratios;
  for (size_t g = 0; g < names_.size(); ++g)
    ratios.emplace_back(names_[g], weight[g] > 0 ? std::sqrt(update[g] / weight[g]) : 0);
  return ratios;
}

}  // namespace rekindle
