// SPDX-License-Identifier: Apache-2.0
#include "comm/leaf_values.h"

#include "comm/sum.h"

namespace rekindle {

LeafValues::LeafValues(Communicator& communicator, const SumPlan& plan, int64_t width)
    : communicator_(communicator),
      width_(width),
      leaves_(plan.leaves()),
      order_(plan.order_of_leaves()),
      rows_(communicator.allocate_shared(2 * leaves_ * width, at::kDouble)),
      sums_(static_cast<size_t>(width)) {}

std::span<double> LeafValues::row(int leaf) {
  return {rows_.mutable_data_ptr<double>() + (turn_ * leaves_ + leaf) * width_, static_cast<size_t>(width_)};
}

void LeafValues::exchange() {
  const int64_t begin = turn_ * leaves_ * width_;
  communicator_.all_gather(rows_, {begin, begin + leaves_ * width_}, width_);
  shown_ = turn_;
  turn_ = 1 - turn_;
}

std::span<const double> LeafValues::shown(int leaf) {
  return {rows_.const_data_ptr<double>() + (shown_ * leaves_ + leaf) * width_, static_cast<size_t>(width_)};
}

std::span<const double> LeafValues::sums() {
  std::vector<const double*> sources;
  for (int leaf = 0; leaf < leaves_; ++leaf) sources.push_back(shown(leaf).data());
  sum(sums_.data(), std::span<const double* const>(sources), order_, width_);
  return sums_;
}

}  // namespace rekindle
