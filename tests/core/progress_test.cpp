// SPDX-License-Identifier: Apache-2.0
#include "core/progress.h"

#include <gtest/gtest.h>

#include "core/error.h"

namespace rekindle {
namespace {

TEST(Timeline, AnEpochEndsWithItsOwnSmallerBatch) {
  const Timeline timeline(1000, 300);
  EXPECT_EQ(timeline.steps_per_epoch(), 4);
  EXPECT_EQ(timeline.batch_at(0), 300);
  EXPECT_EQ(timeline.batch_at(900), 100);
  EXPECT_EQ(timeline.batch_at(1000), 300);
}

TEST(Timeline, StepsAndSamplesMapBothWays) {
  for (const auto& [samples, batch] : {std::pair{1000, 300}, {7, 7}, {5, 8}, {1, 1}, {640, 64}}) {
    const Timeline timeline(samples, batch);
    int64_t seen = 0;
    for (int64_t step = 0; step < 50; ++step) {
      EXPECT_EQ(timeline.samples_after(step), seen);
      EXPECT_EQ(timeline.steps_at(seen), step);
      seen += timeline.batch_at(seen);
    }
  }
}

TEST(Timeline, ABatchThatGrowsDoesSoInProportionToWhatWasSeen) {
  const Timeline timeline(1000, 320, {32, 1500});
  EXPECT_EQ(timeline.batch_at(0), 32);
  EXPECT_EQ(timeline.batch_at(150), 32);  // 32 + 28.8
  EXPECT_EQ(timeline.batch_at(170), 64);  // 32 + 32.6
  EXPECT_EQ(timeline.batch_at(980), 20);  // the end of the epoch
  EXPECT_EQ(timeline.batch_at(1499), 288);
  EXPECT_EQ(timeline.batch_at(1500), 320);
  int64_t seen = 0, last = 0;
  for (int64_t step = 0; step < 60; ++step) {
    EXPECT_EQ(timeline.samples_after(step), seen) << step;
    EXPECT_EQ(timeline.steps_at(seen), step);
    if (step > 0) EXPECT_EQ(timeline.steps_at(seen - 1), step - 1);
    last = timeline.batch_at(seen);
    EXPECT_GT(last, 0);
    seen += last;
  }
  EXPECT_GT(timeline.ramp_steps(), 8);
  EXPECT_EQ(timeline.samples_in({5, Unit::kBatches}, 0), 5 * 32);
}

TEST(Timeline, LengthsInSamples) {
  const Timeline timeline(1000, 300);
  EXPECT_EQ(timeline.samples_in({250, Unit::kSamples}, 0), 250);
  EXPECT_EQ(timeline.samples_in({2.5, Unit::kEpochs}, 0), 2500);
  EXPECT_EQ(timeline.samples_in({5, Unit::kBatches}, 0), 1300);  // 3 x 300 + 100, then 300
  EXPECT_EQ(timeline.samples_in({3.5, Unit::kBatches}, 0), 950);
  EXPECT_EQ(timeline.samples_in({0.06, Unit::kShare}, 5000), 300);
  EXPECT_THROW(timeline.samples_in({60, Unit::kSeconds}, 0), Error);
}

TEST(Timeline, NothingToTrainOnIsRefused) {
  EXPECT_THROW(Timeline(0, 10), Error);
  EXPECT_THROW(Timeline(10, 0), Error);
  EXPECT_THROW(Timeline(10, 10, {1, 1e9}), Error);
}

}  // namespace
}  // namespace rekindle
