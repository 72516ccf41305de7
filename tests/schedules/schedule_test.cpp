// SPDX-License-Identifier: Apache-2.0
#include "schedules/schedule.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <numbers>
#include <string>
#include <vector>

#include "core/error.h"
#include "schedules/curves.h"

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

// All that a schedule can be made of, over 8 epochs of 1,000 samples.
std::vector<std::pair<std::string, ScheduleOptions>> all_decays() {
  std::vector<std::pair<std::string, ScheduleOptions>> all;
  const auto add = [&](const char* name, Decay decay) -> ScheduleOptions& {
    all.emplace_back(name, ScheduleOptions{});
    all.back().second.base_lr = 0.3;
    all.back().second.min_lr_factor = 0.01;
    all.back().second.decay = decay;
    return all.back().second;
  };
  add("constant", Decay::kConstant);
  add("cosine", Decay::kCosine);
  add("linear", Decay::kLinear);
  add("polynomial", Decay::kPolynomial).decay_power = 2.5;
  add("exponential", Decay::kExponential).decay_every = {2, Unit::kEpochs};
  add("inverse-sqrt", Decay::kInverseSqrt).timescale = {1, Unit::kEpochs};
  add("one-cycle", Decay::kOneCycle);
  for (const auto shape : {CooldownShape::kLinear, CooldownShape::kCosine, CooldownShape::k1Sqrt}) {
    ScheduleOptions& wsd = add("wsd", Decay::kWsd);
    wsd.cooldown = {0.2, Unit::kShare};
    wsd.cooldown_shape = shape;
    ScheduleOptions& settled = add("settled wsd", Decay::kWsd);
    settled.cooldown = {0.2, Unit::kShare};
    settled.cooldown_shape = shape;
    settled.settle = {100, Unit::kSamples};
    settled.stable_factor = 0.3;
  }
  return all;
}

const std::vector<Length> kWarmups = {
    {1, Unit::kEpochs}, {19, Unit::kBatches}, {777, Unit::kSamples}, {0.13, Unit::kShare}, {}};

// Every rise with every fall, in every unit: no jump at the seam or anywhere, never below zero, the peak
// where the warm-up ends, and the same in any order of calls.
TEST(Schedule, ContinuousPureAndNeverNegative) {
  for (const int64_t batch : {16, 100, 333}) {
    const Timeline timeline(1000, batch);
    for (auto [name, options] : all_decays()) {
      for (const auto shape : {WarmupShape::kLinear, WarmupShape::kExponential, WarmupShape::kCosine}) {
        for (const Length& warmup : kWarmups) {
          options.warmup = warmup;
          options.warmup_shape = shape;
          options.warmup_start_factor = 0.02;
          const Schedule schedule(options, timeline, {8, Unit::kEpochs});
          SCOPED_TRACE(name + ", warm-up " + to_string(warmup) + ", batch " + std::to_string(batch));
          std::vector<double> forth;
          for (int64_t samples = 0; samples <= 8200; ++samples) forth.push_back(schedule.at(at(samples)));
          for (int64_t samples = 8200; samples >= 0; samples -= 7)
            EXPECT_EQ(schedule.at(at(samples)), forth[samples]);
          // sqrt(1/1600), the first sample of a cooldown of 1 - sqrt, is the steepest
          for (size_t i = 1; i < forth.size(); ++i)
            ASSERT_LE(std::abs(forth[i] - forth[i - 1]), 0.3 * 0.026) << i;
          EXPECT_GE(std::ranges::min(forth), 0);
          EXPECT_LE(std::ranges::max(forth), 0.3);
          EXPECT_NEAR(forth[std::llround(schedule.warmup())], 0.3, 1e-3);
          EXPECT_EQ(forth[8000], forth[8200]);
          if (HasFailure()) return;
        }
      }
    }
  }
}

// Within a billionth of the peak on both sides of the end of the warm-up, which is the peak: on any number of
// workers, whose batch is then another, by the clock, and while the batch grows.
TEST(Schedule, TheSeamIsContinuous) {
  constexpr double kPeak = 0.3, kHair = 1e-6;
  for (const Timeline& timeline :
       {Timeline(1000, 16), Timeline(1000, 333), Timeline(1000, 160, {16, 2000})}) {
    for (auto [name, options] : all_decays()) {
      for (const auto shape : {WarmupShape::kLinear, WarmupShape::kExponential, WarmupShape::kCosine}) {
        options.warmup_shape = shape;
        options.warmup_start_factor = 0.02;
        for (const bool by_time : {false, true}) {
          ScheduleOptions here = options;
          here.warmup = by_time ? Length{100, Unit::kSeconds} : Length{1, Unit::kEpochs};
          if (by_time) {  // the same parts of the run
            for (Length* length : {&here.decay_every, &here.timescale, &here.settle})
              if (!length->is_zero()) *length = {0.1, Unit::kShare};
          }
          const Schedule schedule(here, timeline,
                                  by_time ? Length{800, Unit::kSeconds} : Length{8, Unit::kEpochs});
          SCOPED_TRACE(name + (by_time ? " by time" : ""));
          if (by_time) {
            EXPECT_NEAR(schedule.at(at(0, 100 - kHair)), kPeak, kPeak * kHair);
            EXPECT_NEAR(schedule.at(at(0, 100 + kHair)), kPeak, kPeak * kHair);
          }
          EXPECT_NEAR(schedule.at(by_time ? at(0, 100) : at(1000)), kPeak, kPeak * 1e-9);
        }
      }
    }
  }
}

// Adam's constants say how the rate rises, whatever it falls by and however large the steps are.
TEST(Schedule, WarmupsByRuleAreFactors) {
  const AdamConstants adam{0.9, 0.95, 1e-8};
  for (const Timeline& timeline :
       {Timeline(1000, 16), Timeline(1000, 100), Timeline(1000, 160, {16, 2000})}) {
    for (auto [name, options] : all_decays()) {
      const Schedule plain(options, timeline, {8, Unit::kEpochs}, adam);
      for (const auto rule : {WarmupRule::kUntuned, WarmupRule::kRadam}) {
        options.warmup_rule = rule;
        const Schedule schedule(options, timeline, {8, Unit::kEpochs}, adam);
        SCOPED_TRACE(name);
        for (int64_t step = 0; step < 50; ++step) {
          const Progress progress{timeline.samples_after(step), step, 0};
          const double factor = rule == WarmupRule::kUntuned ? std::min(1.0, 0.05 * (step + 1.0) / 2)
                                                             : radam_rectification(0.95, step + 1);
          EXPECT_NEAR(schedule.at(progress), plain.at(progress) * factor, 1e-15) << step;
          ScheduleState behind;
          behind.updates_ahead = -3;  // three steps made no update
          if (step >= 3) {
            const double later = rule == WarmupRule::kUntuned ? std::min(1.0, 0.05 * (step - 2.0) / 2)
                                                              : radam_rectification(0.95, step - 2);
            EXPECT_NEAR(schedule.at(progress, behind), plain.at(progress) * later, 1e-15) << step;
          }
        }
      }
    }
  }
}

TEST(Schedule, EndsWhereItSays) {
  for (auto [name, options] : all_decays()) {
    if (options.decay == Decay::kConstant || options.decay == Decay::kExponential ||
        options.decay == Decay::kInverseSqrt)
      continue;
    options.warmup = {1, Unit::kEpochs};
    const Schedule schedule(options, Timeline(1000, 64), {8, Unit::kEpochs});
    EXPECT_NEAR(schedule.at(at(8000)), 0.003, 1e-12) << name;
  }
}

TEST(Schedule, StepsFallAtTheirMoments) {
  ScheduleOptions options;
  options.base_lr = 1;
  options.decay = Decay::kStep;
  options.decay_factor = 0.1;
  options.decay_at = {{3, Unit::kEpochs}, {0.25, Unit::kShare}};
  options.warmup = {0.5, Unit::kEpochs};
  options.min_lr_factor = 0.02;
  const Timeline timeline(1000, 100);
  const Schedule at_moments(options, timeline, {8, Unit::kEpochs});
  EXPECT_EQ(at_moments.at(at(1999)), 1);
  EXPECT_NEAR(at_moments.at(at(2000)), 0.1, 1e-15);
  EXPECT_NEAR(at_moments.at(at(3000)), 0.02, 1e-15);  // the floor
  options.decay_at.clear();
  options.decay_every = {3, Unit::kBatches};
  const Schedule every(options, timeline, {8, Unit::kEpochs});
  EXPECT_EQ(every.at(at(799)), 1);
  EXPECT_NEAR(every.at(at(800)), 0.1, 1e-15);
  options.decay_at = {{0.25, Unit::kEpochs}};
  EXPECT_THROW(Schedule(options, timeline, {8, Unit::kEpochs}), Error);  // in the warm-up
}

// You et al. 2019: of a batch k times as large the rate is sqrt(k) times, and the warm-up k times as many
// epochs, so that it has as many steps. The paper's table for ImageNet: 1 and 0.3125 epochs at 1K, 2^0.5 and
// 0.625 at 2K, ... 2^2.5 and 10 at 32K.
TEST(Schedule, Legw) {
  constexpr int64_t kEpoch = 1280 * 1024;
  for (int64_t k = 1; k <= 32; k *= 2) {
    ScheduleOptions options;
    options.base_lr = 1;
    options.base_batch = 1024;
    options.lr_scaling = LrScaling::kSqrt;
    options.warmup = {0.3125, Unit::kEpochs};
    options.warmup_fixed_in = WarmupFixedIn::kSteps;
    const Timeline timeline(kEpoch, 1024 * k);
    const Schedule schedule(options, timeline, {90, Unit::kEpochs});
    EXPECT_DOUBLE_EQ(schedule.warmup() / kEpoch, 0.3125 * static_cast<double>(k));
    EXPECT_DOUBLE_EQ(schedule.peak(), std::sqrt(static_cast<double>(k)));
    options.warmup = {400, Unit::kBatches};  // steps are steps
    EXPECT_DOUBLE_EQ(Schedule(options, timeline, {90, Unit::kEpochs}).warmup(),
                     400.0 * 1024 * static_cast<double>(k));
  }
}

// Malladi et al. 2022: beta -> 1 - k(1 - beta), eps -> eps/sqrt(k), rate -> sqrt(k) rate.
TEST(Scaling, AdamFollowsTheBatch) {
  ScheduleOptions options;
  options.base_lr = 1e-3;
  options.base_batch = 256;
  options.lr_scaling = LrScaling::kAdamSqrt;
  const AdamConstants base{0.9, 0.98, 1e-6};
  for (const int64_t k : {1, 2, 4, 8}) {
    const auto times = static_cast<double>(k);
    const AdamConstants scaled = scaled_adam(options, base, 256 * k);
    EXPECT_NEAR(scaled.beta1, 1 - times * 0.1, 1e-15);
    EXPECT_NEAR(scaled.beta2, 1 - times * 0.02, 1e-15);
    EXPECT_DOUBLE_EQ(scaled.eps, 1e-6 / std::sqrt(times));
    EXPECT_DOUBLE_EQ(scaled_lr(options, 256 * k), 1e-3 * std::sqrt(times));
  }
  EXPECT_NO_THROW(scaled_adam(options, base, 2559));
  try {
    scaled_adam(options, base, 2560);
    FAIL() << "k(1 - beta1) is 1";
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find("stay below 2560"), std::string::npos) << error.what();
  }
  options.lr_scaling = LrScaling::kSqrt;
  EXPECT_EQ(scaled_adam(options, base, 1 << 20), base);
}

// Ma & Yarats 2021: min(1, (1 - beta2) t / 2), and 1 - exp(-(1 - beta2) t), of update t.
TEST(Schedule, UntunedWarmups) {
  ScheduleOptions options;
  options.base_lr = 1;
  options.warmup_rule = WarmupRule::kUntuned;
  const Timeline timeline(10'000, 10);
  const AdamConstants adam{0.9, 0.99, 1e-8};
  const Schedule linear(options, timeline, {3, Unit::kEpochs}, adam);
  options.warmup_shape = WarmupShape::kExponential;
  const Schedule exponential(options, timeline, {3, Unit::kEpochs}, adam);
  for (int64_t t = 1; t < 1000; ++t) {
    const Progress progress{timeline.samples_after(t - 1), t - 1, 0};
    EXPECT_NEAR(linear.at(progress), std::min(1.0, 0.01 * static_cast<double>(t) / 2), 1e-12) << t;
    EXPECT_NEAR(exponential.at(progress), 1 - std::exp(-0.01 * static_cast<double>(t)), 1e-12) << t;
  }
  options.warmup_shape = WarmupShape::kLinear;
  EXPECT_EQ(linear.warmup(), 1990);  // which is why `rekindle plan` refuses it for 200 steps
  EXPECT_NO_THROW(Schedule(options, timeline, {100, Unit::kBatches}, adam));

  // A child whose Adam goes on, of a run that is far behind its warm-up; one that begins with skipped steps.
  options.decay = Decay::kStep;
  options.decay_at = {{250, Unit::kBatches}, {4, Unit::kEpochs}};
  ScheduleState state;
  state.origin = {30'000, 3000, 0};
  state.updates_ahead = 3000;
  const Schedule child(options, timeline, {3, Unit::kEpochs}, adam, state);
  EXPECT_EQ(child.at(at(0), state), 0.1);
  EXPECT_EQ(child.warmup(), child.before());
  state = {};
  state.updates_ahead = -20;
  EXPECT_NO_THROW(Schedule(options, timeline, {3, Unit::kEpochs}, adam, state));
}

TEST(Schedule, APlateauIsNotLookedForWhileTheRateRisesByRule) {
  ScheduleOptions options;
  options.base_lr = 1;
  options.warmup_rule = WarmupRule::kUntuned;
  options.decay = Decay::kPlateau;
  options.decay_patience = 0;
  const Schedule schedule(options, Timeline(10'000, 10), {3, Unit::kEpochs}, {0.9, 0.99, 1e-8});
  ScheduleState state;
  for (const int64_t step : {50, 100, 198})
    EXPECT_FALSE(schedule.hear(Progress{10 * step, step, 0}, ValidationMeasures{1, 0.5}, state));
  EXPECT_EQ(state.plateau, ScheduleState::Watch{});
  EXPECT_FALSE(schedule.hear(Progress{2000, 200, 0}, ValidationMeasures{1, 0.5}, state));
  EXPECT_TRUE(schedule.hear(Progress{2100, 210, 0}, ValidationMeasures{1, 0.5}, state));
}

TEST(Schedule, WhatDoesNotFitTogetherIsRefused) {
  const Timeline timeline(1000, 100);
  EXPECT_THROW(Schedule(cosine(1, {60, Unit::kSeconds}), timeline, {2, Unit::kEpochs}), Error);
  EXPECT_THROW(Schedule(cosine(1, {1, Unit::kEpochs}), timeline, {60, Unit::kSeconds}), Error);
  EXPECT_THROW(Schedule(cosine(1, {3, Unit::kEpochs}), timeline, {2, Unit::kEpochs}), Error);
}

// Where a measure ends the warm-up: no jump, and the decay is that from the rate that was reached.
TEST(Schedule, AMeasureEndsTheWarmupWithoutAJump) {
  const Timeline timeline(1000, 100);
  for (auto [name, options] : all_decays()) {
    for (const auto shape : {WarmupShape::kLinear, WarmupShape::kExponential, WarmupShape::kCosine}) {
      options.warmup = {2, Unit::kEpochs};
      options.warmup_shape = shape;
      options.warmup_start_factor = 0.1;
      options.warmup_until = WarmupUntil::kTrainingLoss;
      const Schedule schedule(options, timeline, {8, Unit::kEpochs});
      ScheduleState state;
      const StepMeasures low{0.1, {}};
      ScheduleOptions bounded = options;
      bounded.warmup_bound = 1;
      ASSERT_TRUE(Schedule(bounded, timeline, {8, Unit::kEpochs}).hear(at(1300), low, state));
      SCOPED_TRACE(name);
      EXPECT_EQ(schedule.at(at(1299), state), schedule.at(at(1299)));
      for (int64_t samples = 0; samples < 8000; ++samples)
        ASSERT_LE(std::abs(schedule.at(at(samples + 1), state) - schedule.at(at(samples), state)),
                  0.3 * 0.026)
            << samples;
      EXPECT_NEAR(schedule.at(at(1300), state), schedule.at(at(1300)), 1e-12);
    }
  }
  ScheduleOptions held;
  held.base_lr = 1;
  held.warmup = {2, Unit::kEpochs};
  held.warmup_shape = WarmupShape::kConstant;
  held.warmup_start_factor = 0.1;
  ScheduleState state;
  state.warmup_end = at(500);
  const Schedule schedule(held, timeline, {8, Unit::kEpochs});
  EXPECT_EQ(schedule.at(at(499), state), 0.1);
  EXPECT_EQ(schedule.at(at(500), state), 1);
}

TEST(Schedule, AWarmupEndsAtABoundOrAfterItsPatienceButNotBeforeItsLeast) {
  const Timeline timeline(1000, 100);
  ScheduleOptions options = cosine(1, {3, Unit::kEpochs});
  options.warmup_until = WarmupUntil::kValidationAccuracy;
  options.warmup_bound = 0.8;
  options.warmup_min = {4, Unit::kBatches};
  {
    const Schedule schedule(options, timeline, {8, Unit::kEpochs});
    ScheduleState state;
    EXPECT_FALSE(schedule.hear(at(300), ValidationMeasures{0.5, 0.85}, state));  // too early
    EXPECT_FALSE(schedule.hear(at(400), ValidationMeasures{0.5, 0.75}, state));
    EXPECT_FALSE(schedule.hear(at(450), StepMeasures{0.1, {}}, state));  // another measure
    EXPECT_TRUE(schedule.hear(at(500), ValidationMeasures{0.5, 0.81}, state));
    EXPECT_EQ(state.warmup_end, at(500));
    EXPECT_FALSE(schedule.hear(at(600), ValidationMeasures{0.5, 0.9}, state));  // once
    EXPECT_EQ(state.warmup_end, at(500));
  }
  options.warmup_bound.reset();
  options.warmup_patience = 2;
  const Schedule schedule(options, timeline, {8, Unit::kEpochs});
  ScheduleState state;
  for (const double accuracy : {0.5, 0.6, 0.6, 0.61}) {
    EXPECT_FALSE(schedule.hear(at(1000), ValidationMeasures{1, accuracy}, state));
  }
  EXPECT_FALSE(schedule.hear(at(1100), ValidationMeasures{1, 0.55}, state));
  EXPECT_FALSE(schedule.hear(at(1150), ValidationMeasures{1, std::nan("")}, state) &&
               !state.warmup.best.has_value());
  EXPECT_EQ(state.warmup_end, at(1150));
}

TEST(Schedule, TheTrainingLossIsARunningMean) {
  const Timeline timeline(1000, 100);
  ScheduleOptions options = cosine(1, {3, Unit::kEpochs});
  options.warmup_until = WarmupUntil::kTrainingLoss;
  options.warmup_bound = 1.0;
  const Schedule schedule(options, timeline, {8, Unit::kEpochs});
  ScheduleState state;
  EXPECT_FALSE(schedule.hear(at(100), StepMeasures{2.0, {}}, state));
  EXPECT_FALSE(schedule.hear(at(200), StepMeasures{0.1, {}}, state));  // one good step is luck
  int more = 0;
  while (!schedule.hear(at(300), StepMeasures{0.1, {}}, state)) ++more;
  EXPECT_EQ(more, 0);  // (2 * 0.98^2 + 0.1 * (0.98 + 1)) / (0.98^2 + 0.98 + 1) = 0.72 once three are seen
}

TEST(Schedule, ANoiseScaleThatStaysWithinAFifthHasSettled) {
  const Timeline timeline(1000, 100);
  ScheduleOptions options = cosine(1, {3, Unit::kEpochs});
  options.warmup_until = WarmupUntil::kNoiseScale;
  options.warmup_patience = 3;
  const Schedule schedule(options, timeline, {8, Unit::kEpochs});
  ScheduleState state;
  int64_t samples = 0;
  const auto hear = [&](std::optional<double> scale) {
    return schedule.hear(at(samples += 10), StepMeasures{1, scale}, state);
  };
  for (const double scale : {10.0, 20.0, 21.0, 23.0, 30.0, 31.0, 35.0}) EXPECT_FALSE(hear(scale));
  EXPECT_FALSE(hear({}));
  EXPECT_TRUE(hear(25));
}

TEST(Schedule, GoesOnWhereTheParentsStood) {
  const Timeline timeline(1000, 100);
  for (auto [name, options] : all_decays()) {
    options.warmup = {1, Unit::kEpochs};
    const Schedule whole(options, timeline, {8, Unit::kEpochs});
    ScheduleState state;
    state.origin = {3000, 30, 0};
    if (options.decay == Decay::kWsd) options.cooldown = {1.6, Unit::kEpochs};  // a share is that of the run
    const Schedule child(options, timeline, {5, Unit::kEpochs}, {}, state);
    SCOPED_TRACE(name);
    for (int64_t samples = 0; samples <= 5000; samples += 50)
      EXPECT_NEAR(child.at(at(samples), state), whole.at(at(3000 + samples)), 1e-12) << samples;
  }
}

TEST(Schedule, WarmsUpAgainFromWhereTheParentEnded) {
  const Timeline timeline(1000, 100);
  ScheduleState state;
  state.start_lr = 0.05;
  const Schedule child(cosine(0.5, {1, Unit::kEpochs}), timeline, {5, Unit::kEpochs}, {}, state);
  EXPECT_DOUBLE_EQ(child.at(at(0), state), 0.05);
  EXPECT_DOUBLE_EQ(child.at(at(500), state), 0.275);
  EXPECT_DOUBLE_EQ(child.at(at(1000), state), 0.5);
  state.start_lr = 3;  // there is nothing to warm up to
  const Schedule hot(cosine(0.5, {1, Unit::kEpochs}), timeline, {5, Unit::kEpochs}, {}, state);
  EXPECT_DOUBLE_EQ(hot.at(at(0), state), 0.5);
}

TEST(Schedule, AWarmupThatIsOverAsksForNoRoom) {
  const Timeline timeline(1000, 100);
  ScheduleOptions options;
  options.base_lr = 1;
  options.warmup = {4, Unit::kEpochs};
  options.warmup_until = WarmupUntil::kTrainingLoss;
  options.decay = Decay::kWsd;
  options.cooldown = {1, Unit::kEpochs};
  ScheduleState state;
  state.origin = {2500, 25, 0};
  EXPECT_THROW(Schedule(options, timeline, {1, Unit::kEpochs}, {}, state), Error);
  state.warmup_end = at(1500);
  state.reached = 0.375;
  const Schedule schedule(options, timeline, {1, Unit::kEpochs}, {}, state);
  EXPECT_DOUBLE_EQ(schedule.at(at(0), state), 0.375);
  EXPECT_DOUBLE_EQ(schedule.at(at(500), state), 0.1875);
}

TEST(Schedule, WithoutAParentToStartFromItRisesFromZero) {
  const Timeline timeline(1000, 100);
  for (const auto shape : {WarmupShape::kExponential, WarmupShape::kConstant}) {
    ScheduleOptions options = cosine(1, {1, Unit::kEpochs});
    options.warmup_shape = shape;
    EXPECT_DOUBLE_EQ(Schedule(options, timeline, {8, Unit::kEpochs}).at(at(500)), 0.5);
  }
}

TEST(Schedule, MomentumMovesWithTheWarmup) {
  const Timeline timeline(1000, 100);
  ScheduleOptions options = cosine(1, {2, Unit::kEpochs});
  const Schedule still(options, timeline, {8, Unit::kEpochs});
  EXPECT_EQ(still.momentum_at(at(0), 0.9), 0.9);
  options.warmup_momentum = 0.5;
  const Schedule schedule(options, timeline, {8, Unit::kEpochs});
  EXPECT_DOUBLE_EQ(schedule.momentum_at(at(0), 0.9), 0.5);
  EXPECT_DOUBLE_EQ(schedule.momentum_at(at(1000), 0.9), 0.7);
  EXPECT_DOUBLE_EQ(schedule.momentum_at(at(2000), 0.9), 0.9);
  EXPECT_DOUBLE_EQ(schedule.momentum_at(at(7000), 0.9), 0.9);
}

}  // namespace
}  // namespace rekindle
