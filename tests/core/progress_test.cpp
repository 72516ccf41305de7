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
}

}  // namespace
}  // namespace rekindle
