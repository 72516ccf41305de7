// SPDX-License-Identifier: Apache-2.0
#include "worker/interval.h"

#include <gtest/gtest.h>

namespace rekindle {
namespace {

// Walks `steps` steps and counts at which an interval is due.
std::vector<int64_t> due_steps(const Length& length, const Timeline& timeline, int64_t steps,
                               const Length& duration = {4, Unit::kEpochs}) {
  const Interval interval(length, timeline, duration);
  std::vector<int64_t> due;
  Progress before;
  for (int64_t step = 1; step <= steps; ++step) {
    const Progress after{timeline.samples_after(step), step, static_cast<double>(step) * 0.5};
    if (interval.due(before, after)) due.push_back(step);
    before = after;
  }
  return due;
}

TEST(Interval, CountsInItsOwnUnit) {
  const Timeline timeline(1000, 300);  // 4 steps an epoch, the last smaller
  EXPECT_EQ(due_steps({1, Unit::kEpochs}, timeline, 10), (std::vector<int64_t>{4, 8}));
  EXPECT_EQ(due_steps({3, Unit::kBatches}, timeline, 10), (std::vector<int64_t>{3, 6, 9}));
  EXPECT_EQ(due_steps({900, Unit::kSamples}, timeline, 8), (std::vector<int64_t>{3, 7}));
  EXPECT_EQ(due_steps({0.25, Unit::kShare}, timeline, 10), (std::vector<int64_t>{4, 8}));
  EXPECT_EQ(due_steps({2, Unit::kSeconds}, timeline, 10), (std::vector<int64_t>{4, 8}));
  EXPECT_EQ(due_steps({0.25, Unit::kShare}, timeline, 10, {8, Unit::kSeconds}), (std::vector<int64_t>{4, 8}));
  EXPECT_TRUE(due_steps({0, Unit::kEpochs}, timeline, 10).empty());
}

}  // namespace
}  // namespace rekindle
