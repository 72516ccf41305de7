// SPDX-License-Identifier: Apache-2.0
#include "comm/sum_plan.h"

#include <gmock/gmock.h>

#include <cmath>
#include <vector>

#include "comm/sum.h"
#include "core/error.h"

namespace rekindle {
namespace {

using testing::ElementsAre;

TEST(SumPlan, ARangeIsMadeOfTheFewestSubtrees) {
  EXPECT_THAT(maximal_subtrees(0, 8), ElementsAre(Subtree{0, 8}));
  EXPECT_THAT(maximal_subtrees(2, 5), ElementsAre(Subtree{2, 2}, Subtree{4, 1}));
  EXPECT_THAT(maximal_subtrees(1, 8), ElementsAre(Subtree{1, 1}, Subtree{2, 2}, Subtree{4, 4}));
  EXPECT_TRUE(maximal_subtrees(3, 3).empty());
}

TEST(SumPlan, ThreeRanksShareATreeOfEight) {
  const SumPlan plan = SumPlan::along_tree(8, 3);
  EXPECT_THAT(plan.parts(0), ElementsAre(Subtree{0, 2}));
  EXPECT_THAT(plan.parts(1), ElementsAre(Subtree{2, 2}, Subtree{4, 1}));
  EXPECT_THAT(plan.parts(2), ElementsAre(Subtree{5, 1}, Subtree{6, 2}));
  EXPECT_EQ(plan.most_parts(), 2);
  // ((01 + 23) + ((4 + 5) + 67))
  EXPECT_THAT(plan.order(), ElementsAre(0, 1, kAdd, 2, 3, kAdd, 4, kAdd, kAdd));
}

TEST(SumPlan, InTheOrderOfTheRanksEachHasOnePart) {
  const SumPlan plan = SumPlan::in_order_of_ranks(3);
  EXPECT_EQ(plan.most_parts(), 1);
  EXPECT_THAT(plan.order(), ElementsAre(0, 1, kAdd, 2, kAdd));
  EXPECT_THAT(SumPlan::in_order_of_ranks(1).order(), ElementsAre(0));
}

TEST(SumPlan, ATreeNeedsAPowerOfTwoThatGoesRound) {
  EXPECT_THROW(SumPlan::along_tree(6, 2), Error);
  EXPECT_THROW(SumPlan::along_tree(2, 3), Error);
}

// Each rank adds its own leaves, then all parts are added: the same float on any world.
TEST(SumPlan, TheSumIsThatOfTheTreeOnAnyWorld) {
  constexpr int kLeaves = 16;
  constexpr int64_t kCount = 3000;
  std::vector<std::vector<float>> leaves(kLeaves, std::vector<float>(kCount));
  for (int leaf = 0; leaf < kLeaves; ++leaf) {
    for (int64_t i = 0; i < kCount; ++i) {
      leaves[leaf][i] =
          std::sin(static_cast<float>(i + 31 * leaf)) * std::pow(10.f, static_cast<float>(leaf % 4));
    }
  }
  std::vector<std::vector<float>> tree = leaves;
  for (int size = 1; size < kLeaves; size *= 2) {
    for (int leaf = 0; leaf < kLeaves; leaf += 2 * size) {
      for (int64_t i = 0; i < kCount; ++i) tree[leaf][i] += tree[leaf + size][i];
    }
  }
  for (int world = 1; world <= kLeaves; ++world) {
    const SumPlan plan = SumPlan::along_tree(kLeaves, world);
    std::vector<std::vector<float>> parts;
    for (int rank = 0; rank < world; ++rank) {
      for (const Subtree& part : plan.parts(rank)) {
        std::vector<Subtree> there;
        std::vector<const float*> sources;
        for (int leaf = part.begin; leaf < part.end(); ++leaf) {
          there.push_back({leaf, 1});
          sources.push_back(leaves[leaf].data());
        }
        parts.emplace_back(kCount);
        sum(parts.back().data(), std::span<const float* const>(sources), order_of_tree(part, there), kCount);
      }
    }
    std::vector<const float*> sources;
    for (const auto& part : parts) sources.push_back(part.data());
    std::vector<float> result(kCount);
    sum(result.data(), std::span<const float* const>(sources), plan.order(), kCount);
    EXPECT_EQ(result, tree[0]) << world;
  }
}

}  // namespace
}  // namespace rekindle
