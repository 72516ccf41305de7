// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <span>
#include <vector>

#include "comm/sum_plan.h"

namespace rekindle {

// Which ranks of a world are on one node. `ranks` are the world's, ascending.
using NodeRanks = std::vector<int>;

// A partial sum that a node makes of what its ranks hand in.
struct NodeSum {
  struct Part {
    int local, row;  // index of the rank in its node, row of what it hands in
  };
  std::vector<Part> parts;
  SumOrder order;  // over these parts
  Subtree whole;   // the leaves that it covers, where the plan is a tree
};

// What each node adds up by itself, before anything crosses nodes, and in which order the owner of a slice
// adds the nodes' sums. Along a tree a node finishes every subtree whose leaves it has, so that the sum has
// the bits that one node would give; otherwise it makes one sum, in the order of its ranks.
class NodeSums {
 public:
  NodeSums(const SumPlan& plan, std::span<const NodeRanks> nodes);

  const std::vector<NodeSum>& of(int node) const { return sums_[node]; }
  const SumOrder& order() const { return order_; }  // over all sums of all nodes, by node

 private:
  std::vector<std::vector<NodeSum>> sums_;
  SumOrder order_;
};

}  // namespace rekindle
