// SPDX-License-Identifier: Apache-2.0
#include "core/flat_layout.h"

#include <gtest/gtest.h>

#include "core/error.h"

namespace rekindle {
namespace {

FlatLayout three_layers() {
  FlatLayout layout;
  layout.append("a.weight", {100, 784});
  layout.append("a.bias", {100});
  layout.append("b.weight", {10, 100});
  layout.append("scale", {});
  return layout;
}

TEST(FlatLayout, EveryParameterStartsAtABlock) {
  const FlatLayout layout = three_layers();
  for (const auto& entry : layout.entries()) EXPECT_EQ(entry.range.begin % kBlock, 0) << entry.name;
  EXPECT_EQ(layout.entries()[0].range, (Range{0, 78400}));
  EXPECT_EQ(layout.entries()[1].range, (Range{20 * kBlock, 20 * kBlock + 100}));
  EXPECT_EQ(layout.entries()[3].range.size(), 1);
  EXPECT_EQ(layout.blocks(), 23);
  EXPECT_EQ(layout.elements(), 78400 + 100 + 1000 + 1);
}

TEST(FlatLayout, TwoParametersOfOneNameAreRefused) {
  FlatLayout layout = three_layers();
  EXPECT_THROW(layout.append("a.bias", {3}), Error);
}

TEST(FlatLayout, SlicesCoverWithoutOverlapForAnyWorld) {
  for (const int64_t blocks : {0, 1, 2, 5, 23, 64}) {
    const Range whole{7 * kBlock, (7 + blocks) * kBlock};
    for (int world = 1; world <= 9; ++world) {
      int64_t at = whole.begin;
      for (int rank = 0; rank < world; ++rank) {
        const Range slice = FlatLayout::slice(whole, rank, world);
        EXPECT_EQ(slice.begin, at);
        EXPECT_EQ(slice.begin % kBlock, 0);
        EXPECT_LE(std::abs(slice.size() - whole.size() / world), kBlock);
        at = slice.end;
      }
      EXPECT_EQ(at, whole.end);
    }
  }
}

TEST(FlatLayout, BucketsRunFromTheLastParameterToTheFirst) {
  const FlatLayout layout = three_layers();
  const auto one = layout.buckets(1 << 30, 1 << 30, 4);
  ASSERT_EQ(one.size(), 1u);
  EXPECT_EQ(one[0], (Range{0, layout.size()}));

  const auto small = layout.buckets(3 * kBlock * 4, kBlock * 4, 4);
  ASSERT_EQ(small.size(), 2u);
  EXPECT_EQ(small[0], (Range{20 * kBlock, 23 * kBlock}));  // scale, b.weight, a.bias
  EXPECT_EQ(small[1], (Range{0, 20 * kBlock}));            // larger than a bucket, so one of its own
}

TEST(Range, IntersectionIsEmptyWhereNothingIsShared) {
  EXPECT_EQ((Range{0, 10}.intersect({5, 20})), (Range{5, 10}));
  EXPECT_TRUE((Range{0, 10}.intersect({10, 20})).empty());
}

}  // namespace
}  // namespace rekindle
