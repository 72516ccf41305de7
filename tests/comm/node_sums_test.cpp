// SPDX-License-Identifier: Apache-2.0
#include "comm/node_sums.h"

#include <gmock/gmock.h>

#include <vector>

namespace rekindle {
namespace {

using testing::ElementsAre;

TEST(NodeSums, ANodeMakesOneSumInTheOrderOfItsRanks) {
  const std::vector<NodeRanks> nodes{{0, 1, 2}, {3}};
  const NodeSums sums(SumPlan::in_order_of_ranks(4), nodes);
  ASSERT_EQ(sums.of(0).size(), 1u);
  EXPECT_THAT(sums.of(0)[0].order, ElementsAre(0, 1, kAdd, 2, kAdd));
  EXPECT_EQ(sums.of(0)[0].parts[2].local, 2);
  EXPECT_THAT(sums.of(1)[0].order, ElementsAre(0));
  EXPECT_THAT(sums.order(), ElementsAre(0, 1, kAdd));
}

TEST(NodeSums, ANodeFinishesTheSubtreesThatItHasWhole) {
  // Five ranks over eight leaves: 0 | 1 2 | 3 | 4 5 | 6 7.
  const std::vector<NodeRanks> nodes{{0, 1, 2}, {3, 4}};
  const NodeSums sums(SumPlan::along_tree(8, 5), nodes);
  ASSERT_EQ(sums.of(0).size(), 1u);  // (0 + 1) + (2 + 3), of four parts of three ranks
  EXPECT_EQ(sums.of(0)[0].whole, (Subtree{0, 4}));
  EXPECT_THAT(sums.of(0)[0].order, ElementsAre(0, 1, kAdd, 2, 3, kAdd, kAdd));
  EXPECT_EQ(sums.of(0)[0].parts[2].local, 1);
  EXPECT_EQ(sums.of(0)[0].parts[2].row, 1);
  ASSERT_EQ(sums.of(1).size(), 1u);
  EXPECT_EQ(sums.of(1)[0].whole, (Subtree{4, 4}));
  EXPECT_THAT(sums.order(), ElementsAre(0, 1, kAdd));
}

TEST(NodeSums, WhatIsNotWholeCrossesNodesAsItIs) {
  // Three ranks: 0 1 | 2 3, 4 | 5, 6 7.
  const std::vector<NodeRanks> nodes{{0, 1}, {2}};
  const NodeSums sums(SumPlan::along_tree(8, 3), nodes);
  ASSERT_EQ(sums.of(0).size(), 2u);
  EXPECT_EQ(sums.of(0)[0].whole, (Subtree{0, 4}));
  EXPECT_EQ(sums.of(0)[1].whole, (Subtree{4, 1}));
  ASSERT_EQ(sums.of(1).size(), 2u);
  EXPECT_THAT(sums.order(), ElementsAre(0, 1, 2, kAdd, 3, kAdd, kAdd));  // 0-3 + ((4 + 5) + 67)
}

TEST(NodeSums, RanksThatTakeTurnsAmongNodes) {
  const std::vector<NodeRanks> nodes{{0, 2}, {1, 3}};
  const NodeSums sums(SumPlan::along_tree(4, 4), nodes);
  EXPECT_EQ(sums.of(0).size(), 2u);  // leaves 0 and 2 are no siblings
  EXPECT_THAT(sums.order(), ElementsAre(0, 2, kAdd, 1, 3, kAdd, kAdd));
}

}  // namespace
}  // namespace rekindle
