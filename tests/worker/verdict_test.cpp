// SPDX-License-Identifier: Apache-2.0
#include "worker/verdict.h"

#include <gmock/gmock.h>
#include <nlohmann/json.hpp>

#include <cmath>
#include <vector>

namespace rekindle {
namespace {

using testing::HasSubstr;

// `n` samples of which parent and child agree on all but `gained` and `lost`.
Comparison paired(int n, int gained, int lost) {
  std::vector<double> parent(n, 1), child(n, 1);
  for (int i = 0; i < gained; ++i) parent[i] = 0;
  for (int i = 0; i < lost; ++i) child[n - 1 - i] = 0;
  return compare(parent, child);
}

TEST(Compare, BoundsAreThoseOfThePairedDifference) {
  const Comparison set = paired(1000, 50, 20);
  EXPECT_EQ(set.n, 1000);
  EXPECT_NEAR(*set.parent, 0.950, 1e-12);
  EXPECT_NEAR(*set.child, 0.980, 1e-12);
  EXPECT_NEAR(*set.difference, 0.030, 1e-12);
  // Normal approximation: 0.03 -+ 1.96 sqrt((0.07 - 0.03^2) / 1000). Unpaired bounds would be as wide with
  // half the say.
  EXPECT_NEAR(*set.low, 0.0137, 0.002);
  EXPECT_NEAR(*set.high, 0.0463, 0.002);
}

TEST(Compare, TheSameSamplesGiveTheSameBounds) {
  EXPECT_EQ(*paired(500, 10, 5).low, *paired(500, 10, 5).low);
  const Comparison equal = paired(500, 0, 0);
  EXPECT_EQ(*equal.low, 0);
  EXPECT_EQ(*equal.high, 0);
}

TEST(Compare, WithoutAParentOnlyTheChildsMeanIsKnown) {
  const Comparison set = compare({}, std::vector<double>{1, 0, 1, 1});
  EXPECT_EQ(*set.child, 0.75);
  EXPECT_FALSE(set.parent || set.low || set.high || set.difference);
  EXPECT_EQ(compare({}, {}).n, 0);
}

TEST(Decide, PromotesOnBoundsAndNotOnPoints) {
  const VerdictOptions options;
  EXPECT_EQ(decide(options, paired(1000, 5, 5), paired(1000, 60, 10)).verdict, "promoted");
  // A point gain of 0.3 % that may well be luck.
  const Verdict luck = decide(options, paired(1000, 5, 5), paired(1000, 23, 20));
  EXPECT_EQ(luck.verdict, "inconclusive");
  EXPECT_FALSE(luck.promote);
  EXPECT_THAT(luck.reason, HasSubstr("gain on new data is between"));
  EXPECT_EQ(decide(options, paired(1000, 5, 5), paired(1000, 10, 60)).verdict, "kept-parent");
}

TEST(Decide, ForgettingIsBounded) {
  VerdictOptions options;
  options.max_forgetting = 0.01;
  EXPECT_EQ(decide(options, paired(1000, 0, 60), paired(1000, 60, 10)).verdict, "kept-parent");
  EXPECT_EQ(decide(options, paired(1000, 0, 10), paired(1000, 60, 10)).verdict, "inconclusive");
  options.max_forgetting = 0.1;
  EXPECT_EQ(decide(options, paired(1000, 0, 60), paired(1000, 60, 10)).verdict, "promoted");
}

TEST(Decide, WithoutNewDataTheGainIsAskedForOnTheOld) {
  EXPECT_EQ(decide({}, paired(1000, 60, 10), {}).verdict, "promoted");
  EXPECT_EQ(decide({}, paired(1000, 5, 7), {}).verdict,
            "inconclusive");  // within max_forgetting, but no gain
}

TEST(Decide, ThePolicySaysWhichWayInconclusiveFalls) {
  VerdictOptions options;
  options.promote_if_inconclusive = true;
  const Verdict verdict = decide(options, paired(1000, 5, 5), paired(1000, 23, 20));
  EXPECT_EQ(verdict.verdict, "inconclusive");
  EXPECT_TRUE(verdict.promote);
}

TEST(Decide, AFallOfTheLossIsAGain) {
  VerdictOptions options;
  options.metric = "loss";
  std::vector<double> parent(400, 1.0), child(400, 0.5);
  EXPECT_EQ(decide(options, {}, compare(parent, child)).verdict, "promoted");
  EXPECT_EQ(decide(options, {}, compare(child, parent)).verdict, "kept-parent");
}

TEST(Decide, AChildWhoseScoresAreNoNumbersIsNotPromoted) {
  VerdictOptions options;
  options.metric = "loss";
  options.promote_if_inconclusive = true;
  std::vector<double> parent(400, 1.0), child(400, 0.5);
  child[7] = std::nan("");
  EXPECT_EQ(decide(options, {}, compare(parent, child)).verdict, "kept-parent");
}

TEST(VerdictJson, HasTheFieldsThatScriptsRead) {
  Verdict verdict = decide({}, paired(100, 0, 0), paired(100, 30, 0));
  verdict.child = "c";
  const nlohmann::ordered_json json = to_json(verdict);
  for (const char* key : {"verdict", "metric", "reason", "parent", "child", "old", "new"})
    EXPECT_TRUE(json.contains(key));
  EXPECT_TRUE(json["parent"].is_null());
  for (const char* key : {"n", "parent", "child", "difference", "low", "high"})
    EXPECT_TRUE(json["new"].contains(key));
}

}  // namespace
}  // namespace rekindle
