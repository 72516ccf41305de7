// SPDX-License-Identifier: Apache-2.0
#include "comm/sum_plan.h"

#include <algorithm>
#include <bit>
#include <string>

#include "core/error.h"

namespace rekindle {
namespace {

void append(Subtree node, std::span<const Subtree> there, SumOrder& order) {
  const auto found = std::find(there.begin(), there.end(), node);
  if (found != there.end()) {
    order.push_back(static_cast<int>(found - there.begin()));
    return;
  }
  if (node.size == 1) throw Error("leaf " + std::to_string(node.begin) + " is in no partial sum");
  const int half = node.size / 2;
  append({node.begin, half}, there, order);
  append({node.begin + half, half}, there, order);
  order.push_back(kAdd);
}

}  // namespace

std::vector<Subtree> maximal_subtrees(int begin, int end) {
  std::vector<Subtree> subtrees;
  while (begin < end) {
    int size = 1;
    while (begin % (2 * size) == 0 && begin + 2 * size <= end) size *= 2;
    subtrees.push_back({begin, size});
    begin += size;
  }
  return subtrees;
}

SumOrder order_of_ranks(int sources) {
  SumOrder order{0};
  for (int i = 1; i < sources; ++i) order.insert(order.end(), {i, kAdd});
  return order;
}

SumOrder order_of_tree(Subtree whole, std::span<const Subtree> there) {
  SumOrder order;
  append(whole, there, order);
  return order;
}

SumPlan SumPlan::in_order_of_ranks(int world) {
  return SumPlan(world, world, false);
}

SumPlan SumPlan::along_tree(int leaves, int world) {
  if (!std::has_single_bit(static_cast<unsigned>(leaves)) || leaves < world) {
    throw Error("a tree over " + std::to_string(leaves) + " leaves cannot be shared by " +
                std::to_string(world) + " ranks");
  }
  return SumPlan(leaves, world, true);
}

SumPlan::SumPlan(int leaves, int world, bool is_tree) : leaves_(leaves), world_(world), is_tree_(is_tree) {
  std::vector<Subtree> all;
  for (int rank = 0; rank < world; ++rank) {
    parts_.push_back(is_tree ? maximal_subtrees(first_leaf(rank), first_leaf(rank + 1))
                             : std::vector<Subtree>{{rank, 1}});
    all.insert(all.end(), parts_.back().begin(), parts_.back().end());
  }
  order_ = is_tree ? order_of_tree({0, leaves}, all) : order_of_ranks(world);
}

int SumPlan::first_leaf(int rank) const {
  return leaves_ * rank / world_;
}

SumOrder SumPlan::order_of_leaves() const {
  if (!is_tree_) return order_of_ranks(world_);
  std::vector<Subtree> all;
  for (int leaf = 0; leaf < leaves_; ++leaf) all.push_back({leaf, 1});
  return order_of_tree({0, leaves_}, all);
}

int SumPlan::most_parts() const {
  size_t most = 0;
  for (const auto& parts : parts_) most = std::max(most, parts.size());
  return static_cast<int>(most);
}

}  // namespace rekindle
