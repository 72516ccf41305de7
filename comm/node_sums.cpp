// SPDX-License-Identifier: Apache-2.0
#include "comm/node_sums.h"

#include <algorithm>

namespace rekindle {
namespace {

NodeSum in_order_of_ranks(const NodeRanks& ranks) {
  NodeSum sum;
  for (size_t local = 0; local < ranks.size(); ++local) sum.parts.push_back({static_cast<int>(local), 0});
  sum.order = order_of_ranks(static_cast<int>(ranks.size()));
  return sum;
}

bool siblings(Subtree left, Subtree right) {
  return left.size == right.size && left.end() == right.begin && left.begin % (2 * left.size) == 0;
}

// `left` becomes the sum of both.
void add(NodeSum& left, const NodeSum& right) {
  const int shift = static_cast<int>(left.parts.size());
  left.parts.insert(left.parts.end(), right.parts.begin(), right.parts.end());
  for (const int step : right.order) left.order.push_back(step == kAdd ? kAdd : step + shift);
  left.order.push_back(kAdd);
  left.whole.size *= 2;
}

std::vector<NodeSum> along_tree(const SumPlan& plan, const NodeRanks& ranks) {
  std::vector<NodeSum> sums;  // like a binary counter: what can be added is added at once
  for (size_t local = 0; local < ranks.size(); ++local) {
    const std::vector<Subtree>& rows = plan.parts(ranks[local]);
    for (size_t row = 0; row < rows.size(); ++row) {
      sums.push_back({{{static_cast<int>(local), static_cast<int>(row)}}, {0}, rows[row]});
      while (sums.size() > 1 && siblings(sums[sums.size() - 2].whole, sums.back().whole)) {
        add(sums[sums.size() - 2], sums.back());
        sums.pop_back();
      }
    }
  }
  return sums;
}

}  // namespace

NodeSums::NodeSums(const SumPlan& plan, std::span<const NodeRanks> nodes) {
  std::vector<Subtree> there;
  for (const NodeRanks& ranks : nodes) {
    sums_.push_back(plan.is_tree() ? along_tree(plan, ranks) : std::vector{in_order_of_ranks(ranks)});
    for (const NodeSum& sum : sums_.back()) there.push_back(sum.whole);
  }
  order_ = plan.is_tree() ? order_of_tree({0, plan.leaves()}, there)
                          : order_of_ranks(static_cast<int>(nodes.size()));
}

}  // namespace rekindle
