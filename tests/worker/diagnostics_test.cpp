// SPDX-License-Identifier: Apache-2.0
#include "worker/diagnostics.h"

#include <gtest/gtest.h>

#include <cmath>
#include <random>

#include "worker/precision.h"

namespace rekindle {
namespace {

// Gradients whose noise is known: a true one of norm 2 in 50 dimensions, and for each sample normal noise
// whose covariance has the trace 50 x 3^2.
TEST(NoiseScale, IsThatOfGradientsWhoseNoiseIsKnown) {
  constexpr int kSize = 50, kWorkers = 8, kShare = 4;
  constexpr double kNorm = 2, kNoise = 3;
  std::mt19937_64 random(1);
  ScheduleState state;
  EXPECT_FALSE(noise_scale(state).has_value());
  for (int step = 0; step < 2000; ++step) {
    std::vector<double> whole(kSize, 0.0);
    PassSums sums;
    for (int worker = 0; worker < kWorkers; ++worker) {
      std::normal_distribution<double> noise(0, kNoise / std::sqrt(kShare));
      double squares = 0;
      for (int i = 0; i < kSize; ++i) {
        const double g = kNorm / std::sqrt(kSize) + noise(random);
        whole[i] += g / kWorkers;
        squares += g * g;
      }
      sums.squares += squares;
      sums.inverses += 1.0 / kShare;
      ++sums.passes;
    }
    double squared_norm = 0;
    for (const double g : whole) squared_norm += g * g;
    hear_noise(sums, squared_norm, kWorkers * kShare, state);
  }
  const double expected = kSize * kNoise * kNoise / (kNorm * kNorm);
  ASSERT_TRUE(noise_scale(state).has_value());
  EXPECT_NEAR(*noise_scale(state), expected, 0.25 * expected);
  // Johnson et al. 2020: 1 where the batch is the base, and never more than their ratio.
  EXPECT_DOUBLE_EQ(*adascale_gain(state, 32, 32), 1);
  EXPECT_GT(*adascale_gain(state, 4, 32), 4);
  EXPECT_LT(*adascale_gain(state, 4, 32), 8);
  EXPECT_FALSE(adascale_gain(state, 0, 32).has_value());
}

TEST(NoiseScale, OnePassTellsNothing) {
  ScheduleState state;
  hear_noise({4, 1.0 / 32, 1}, 4, 32, state);
  hear_noise({}, 4, 32, state);
  EXPECT_EQ(state, ScheduleState{});
}

TEST(LossScale, HalvesWhereItWasTooLargeAndGrowsAfter2000GoodSteps) {
  LossScale scale;
  EXPECT_EQ(scale.scale, 65536);
  adjust(scale, false);
  EXPECT_EQ(scale, (LossScale{32768, 0}));
  for (int step = 0; step < 1999; ++step) adjust(scale, true);
  EXPECT_EQ(scale, (LossScale{32768, 1999}));
  adjust(scale, true);
  EXPECT_EQ(scale, (LossScale{65536, 0}));
  adjust(scale, true);
  adjust(scale, false);
  EXPECT_EQ(scale, (LossScale{32768, 0}));
}

}  // namespace
}  // namespace rekindle
