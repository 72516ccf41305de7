// SPDX-License-Identifier: Apache-2.0
#include "data/sample_order.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <map>
#include <numeric>
#include <set>
#include <vector>

#include "core/error.h"

namespace rekindle {
namespace {

std::vector<int64_t> whole(uint64_t seed, int64_t epoch, int64_t size) {
  const SampleOrder order(seed, epoch, size, true);
  std::vector<int64_t> values;
  for (int64_t i = 0; i < size; ++i) values.push_back(order.at(i));
  return values;
}

// How far `counts` are from even ones, in standard deviations of the chi-square distribution.
double unevenness(const std::vector<int64_t>& counts) {
  const double expected = static_cast<double>(std::accumulate(counts.begin(), counts.end(), int64_t{0})) /
                          static_cast<double>(counts.size());
  double chi = 0;
  for (const int64_t count : counts) chi += std::pow(static_cast<double>(count) - expected, 2) / expected;
  const double freedom = static_cast<double>(counts.size()) - 1;
  return (chi - freedom) / std::sqrt(2 * freedom);
}

TEST(SampleOrderTest, IsABijectionForAwkwardSizes) {
  std::vector<int64_t> sizes{0, 1, 2, 3, 5, 7, 97, 997, 10007, 60000, 99991};
  for (int bits = 2; bits <= 16; ++bits)
    sizes.insert(sizes.end(), {(1 << bits) - 1, 1 << bits, (1 << bits) + 1});
  for (const int64_t size : sizes) {
    for (const uint64_t seed : {0, 1, 77}) {
      std::vector<bool> seen(static_cast<size_t>(size));
      for (const int64_t value : whole(seed, 3, size)) {
        ASSERT_TRUE(value >= 0 && value < size) << value << " of " << size;
        ASSERT_FALSE(seen[static_cast<size_t>(value)]) << value << " twice, size " << size;
        seen[static_cast<size_t>(value)] = true;
      }
    }
  }
}

// Too large to try all: different positions go to different places inside.
TEST(SampleOrderTest, HoldsForHugeSizes) {
  for (const int64_t size : {int64_t{1'000'000'000'000}, (int64_t{1} << 62) + 1, INT64_MAX}) {
    const SampleOrder order(5, 0, size, true);
    std::set<int64_t> seen;
    int64_t lower_half = 0;
    for (int64_t i = 0; i < 100'000; ++i) {
      const int64_t value = order.at(i % 2 == 0 ? i : size - i);
      ASSERT_TRUE(value >= 0 && value < size);
      seen.insert(value);
      lower_half += value < size / 2;
    }
    EXPECT_EQ(seen.size(), 100'000u);
    EXPECT_NEAR(static_cast<double>(lower_half), 50'000, 5 * std::sqrt(25'000));
  }
}

TEST(SampleOrderTest, DependsOnSeedAndEpochAlone) {
  EXPECT_EQ(whole(1, 2, 1000), whole(1, 2, 1000));
  EXPECT_NE(whole(1, 2, 1000), whole(1, 3, 1000));
  EXPECT_NE(whole(1, 2, 1000), whole(2, 2, 1000));
  EXPECT_NE(whole(1, 2, 1000), whole(2, 1, 1000));
}

// Resumed runs rely on it: a change here makes them see other samples than they would have.
TEST(SampleOrderTest, StaysTheSameFromVersionToVersion) {
  EXPECT_EQ(whole(1, 0, 10), (std::vector<int64_t>{8, 2, 5, 7, 3, 6, 1, 9, 4, 0}));
}

TEST(SampleOrderTest, WithoutShufflingIsTheIdentity) {
  const SampleOrder order(1, 4, 50, false);
  for (int64_t i = 0; i < 50; ++i) EXPECT_EQ(order.at(i), i);
}

TEST(SampleOrderTest, RefusesPositionsOutside) {
  for (const bool shuffle : {false, true}) {
    EXPECT_THROW(SampleOrder(1, 0, 5, shuffle).at(5), Error);
    EXPECT_THROW(SampleOrder(1, 0, 5, shuffle).at(-1), Error);
    EXPECT_THROW(SampleOrder(1, 0, 0, shuffle).at(0), Error);
  }
  EXPECT_THROW(SampleOrder(1, 0, -1, true), Error);
}

TEST(SampleOrderTest, EveryOrderOfAFewSamplesIsAboutAsLikely) {
  for (const int64_t size : {2, 3, 4, 5}) {
    int64_t orders = 1;
    for (int64_t i = 2; i <= size; ++i) orders *= i;
    std::map<std::vector<int64_t>, int64_t> counts;
    for (int64_t epoch = 0; epoch < 200 * orders; ++epoch) ++counts[whole(9, epoch, size)];
    ASSERT_EQ(static_cast<int64_t>(counts.size()), orders) << size;
    std::vector<int64_t> values;
    for (const auto& [order, count] : counts) values.push_back(count);
    EXPECT_LT(unevenness(values), 5) << size;
  }
}

TEST(SampleOrderTest, EverySampleIsAboutAsLikelyAtEveryPosition) {
  for (const int64_t size : {8, 13, 64, 100}) {
    std::vector<int64_t> counts(static_cast<size_t>(size * size));
    for (int64_t epoch = 0; epoch < 100 * size; ++epoch) {
      const std::vector<int64_t> order = whole(11, epoch, size);
      for (int64_t i = 0; i < size; ++i)
        ++counts[static_cast<size_t>(i * size + order[static_cast<size_t>(i)])];
    }
    EXPECT_LT(std::abs(unevenness(counts)), 5) << size;
  }
}

double correlation(const std::vector<int64_t>& a, const std::vector<int64_t>& b) {
  const auto size = static_cast<double>(a.size());
  const double mean = (size - 1) / 2;
  double sum = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    sum += (static_cast<double>(a[i]) - mean) * (static_cast<double>(b[i]) - mean);
  }
  return sum / (size * (size * size - 1) / 12);
}

TEST(SampleOrderTest, EpochsAndNeighboursAreNotCorrelated) {
  constexpr int64_t kSize = 10'000;
  for (int64_t epoch = 0; epoch < 20; ++epoch) {
    const std::vector<int64_t> order = whole(1, epoch, kSize);
    std::vector<int64_t> rotated = order;
    std::rotate(rotated.begin(), rotated.begin() + 1, rotated.end());
    EXPECT_LT(std::abs(correlation(order, rotated)), 5 / std::sqrt(kSize));
    EXPECT_LT(std::abs(correlation(order, whole(1, epoch + 1, kSize))), 5 / std::sqrt(kSize));
    EXPECT_LT(std::abs(correlation(order, whole(2, epoch, kSize))), 5 / std::sqrt(kSize));
  }
}

}  // namespace
}  // namespace rekindle
