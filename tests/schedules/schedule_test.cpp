// SPDX-License-Identifier: Apache-2.0
#include "schedules/schedule.h"

#include <gtest/gtest.h>

#include <cmath>
#include <numbers>

#include "core/error.h"

namespace rekindle {
namespace {

ScheduleOptions cosine(double base_lr, Length warmup) {
  ScheduleOptions options;
  options.base_lr = base_lr;
  options.warmup = warmup;
  options.decay = Decay::kCosine;
  return options;
}

Progress at(int64_t samples, double seconds = 0) {
  return {samples, 0, seconds};
}

TEST(Schedule, AStepsRateIsTheScheduleAtTheSamplesSeenBeforeIt) {
  const Timeline timeline(1000, 100);
  const Schedule schedule(cosine(0.5, {1, Unit::kEpochs}), timeline, {5, Unit::kEpochs});
  EXPECT_EQ(schedule.at(at(0)), 0);
  EXPECT_DOUBLE_EQ(schedule.at(at(500)), 0.25);
  EXPECT_DOUBLE_EQ(schedule.at(at(1000)), 0.5);
  EXPECT_DOUBLE_EQ(schedule.at(at(3000)), 0.25);
  EXPECT_DOUBLE_EQ(schedule.at(at(2000)), 0.5 * 0.5 * (1 + std::cos(std::numbers::pi / 4)));
  EXPECT_NEAR(schedule.at(at(5000)), 0, 1e-15);
  EXPECT_NEAR(schedule.at(at(9000)), 0, 1e-15);  // past the end it stays where it ended
}

TEST(Schedule, FloorAndStartAreSharesOfThePeak) {
  const Timeline timeline(1000, 100);
  ScheduleOptions options = cosine(0.4, {10, Unit::kBatches});
  options.warmup_start_factor = 0.25;
  options.min_lr_factor = 0.1;
  const Schedule schedule(options, timeline, {2, Unit::kEpochs});
  EXPECT_DOUBLE_EQ(schedule.at(at(0)), 0.1);
  EXPECT_DOUBLE_EQ(schedule.at(at(1000)), 0.4);
  EXPECT_DOUBLE_EQ(schedule.at(at(2000)), 0.04);
}

TEST(Schedule, EveryUnitOfTheWarmupIsTheSameLength) {
  const Timeline timeline(1000, 100);
  for (const Length& warmup : {Length{0.5, Unit::kEpochs}, Length{5, Unit::kBatches},
                               Length{500, Unit::kSamples}, Length{0.125, Unit::kShare}}) {
    const Schedule schedule(cosine(1, warmup), timeline, {4, Unit::kEpochs});
    EXPECT_DOUBLE_EQ(schedule.warmup(), 500) << to_string(warmup);
    EXPECT_DOUBLE_EQ(schedule.at(at(250)), 0.5) << to_string(warmup);
  }
}

TEST(Schedule, ByTheClockWhereTheRunIs) {
  const Timeline timeline(1000, 100);
  const Schedule schedule(cosine(1, {60, Unit::kSeconds}), timeline, {660, Unit::kSeconds});
  EXPECT_DOUBLE_EQ(schedule.at(at(12345, 30)), 0.5);
  EXPECT_DOUBLE_EQ(schedule.at(at(1, 360)), 0.5);
}

// Goyal et al. 2017: 0.1 at 256, in proportion for any batch.
TEST(Schedule, LinearScaling) {
  for (const int64_t batch : {256, 512, 1024, 2048, 4096, 8192}) {
    ScheduleOptions options;
    options.base_lr = 0.1;
    options.base_batch = 256;
    options.lr_scaling = LrScaling::kLinear;
    EXPECT_DOUBLE_EQ(scaled_lr(options, batch), 0.1 * static_cast<double>(batch) / 256);
    EXPECT_DOUBLE_EQ(Schedule(options, Timeline(1 << 20, batch), {1, Unit::kEpochs}).at(at(0)),
                     0.1 * static_cast<double>(batch) / 256);
  }
}

TEST(Schedule, ContinuousAtTheSeamAndPure) {
  const Timeline timeline(997, 64);
  const Schedule schedule(cosine(0.3, {1.3, Unit::kEpochs}), timeline, {3.7, Unit::kEpochs});
  for (int64_t samples = 0; samples < 3600; ++samples) {
    EXPECT_LE(std::abs(schedule.at(at(samples + 1)) - schedule.at(at(samples))), 0.3 / 1000) << samples;
    EXPECT_GE(schedule.at(at(samples)), 0);
    EXPECT_EQ(schedule.at(at(samples)), schedule.at(at(samples)));
  }
}

TEST(Schedule, WhatDoesNotFitTogetherIsRefused) {
  const Timeline timeline(1000, 100);
  EXPECT_THROW(Schedule(cosine(1, {60, Unit::kSeconds}), timeline, {2, Unit::kEpochs}), Error);
  EXPECT_THROW(Schedule(cosine(1, {1, Unit::kEpochs}), timeline, {60, Unit::kSeconds}), Error);
  EXPECT_THROW(Schedule(cosine(1, {3, Unit::kEpochs}), timeline, {2, Unit::kEpochs}), Error);
}

}  // namespace
}  // namespace rekindle
