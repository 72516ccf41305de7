// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <span>
#include <vector>

namespace rekindle {

// A complete binary tree over `size` leaves from `begin` on: `size` is a power of two and divides `begin`.
struct Subtree {
  int begin = 0, size = 1;

  int end() const { return begin + size; }
  bool operator==(const Subtree&) const = default;
};

// The leaves [begin, end) as the fewest complete subtrees, in order.
std::vector<Subtree> maximal_subtrees(int begin, int end);

// How a sum is made of partial sums, in postfix: i pushes the i-th, kAdd adds the two on top of the stack.
using SumOrder = std::vector<int>;
inline constexpr int kAdd = -1;

SumOrder order_of_ranks(int sources);  // ((0 + 1) + 2) + ...
// `there` covers `whole` in order; every node of the tree is added from its two halves.
SumOrder order_of_tree(Subtree whole, std::span<const Subtree> there);

// In which order the gradients of a step are added, over all ranks. The global batch is cut into `leaves`
// parts, each of which gives one gradient, and a rank computes a contiguous range of them. What it hands in
// is one or more partial sums of these, its parts.
//
// In the order of the ranks, the leaves are the ranks. With a tree, the sum is that of one complete binary
// tree over the leaves, so its bits do not depend on how many ranks there are: a rank hands in the maximal
// subtrees of its range, and whoever owns a slice finishes the tree.
class SumPlan {
 public:
  static SumPlan in_order_of_ranks(int world);
  static SumPlan along_tree(int leaves, int world);  // leaves: a power of two, world at least

  int world() const { return world_; }
  int leaves() const { return leaves_; }
  bool is_tree() const { return is_tree_; }

  int first_leaf(int rank) const;  // of rank's range, which ends at that of rank + 1
  const std::vector<Subtree>& parts(int rank) const { return parts_[rank]; }
  int most_parts() const;                           // of any rank
  const SumOrder& order() const { return order_; }  // over all parts of all ranks, by rank, then part
  SumOrder order_of_leaves() const;                 // over all leaves one by one

 private:
  SumPlan(int leaves, int world, bool is_tree);

  int leaves_, world_;
  bool is_tree_;
  std::vector<std::vector<Subtree>> parts_;  // by rank
  SumOrder order_;
};

}  // namespace rekindle
