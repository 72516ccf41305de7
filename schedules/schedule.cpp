// SPDX-License-Identifier: Apache-2.0
#include "schedules/schedule.h"

#include <algorithm>
#include <cmath>
#include <string>

#include "core/error.h"
#include "schedules/curves.h"

namespace rekindle {
namespace {

constexpr double kRounding = 1e-9;  // of a quotient that should be whole

std::string key(const char* name) {
  return std::string("schedule.") + name;
}

}  // namespace

Schedule::Schedule(const ScheduleOptions& options, const Timeline& timeline, const Length& duration,
                   const AdamConstants& adam)
    : options_(options),
      adam_(scaled_adam(options, adam, timeline.global_batch())),
      peak_(scaled_lr(options, timeline.global_batch())),
      by_time_(duration.is_time()),
      end_(by_time_ ? duration.value : timeline.samples_in(duration, 0)) {
  set_warmup(timeline, duration);
  set_decay(timeline);
}

// A length on the run's clock.
double Schedule::clock(const Length& length, const Timeline& timeline, const char* name) const {
  if (length.is_zero()) return 0;
  if (by_time_) {
    if (length.unit == Unit::kShare) return length.value * end_;
    if (length.is_time()) return length.value;
    throw bad_input("a run that ends by the clock has no fixed number of samples for " + to_string(length),
                    key(name), "give a time or a share, such as \"0.06dur\"");
  }
  if (length.is_time()) {
    throw bad_input(to_string(length) + " of time in a run that is measured in samples", key(name),
                    "give both as times, or a share, such as \"0.06dur\"");
  }
  return timeline.samples_in(length, end_);
}

void Schedule::set_warmup(const Timeline& timeline, const Length& duration) {
  start_ = options_.warmup_start_factor;
  if (options_.warmup_start_lr) {
    start_ = *options_.warmup_start_lr / peak_;
    if (start_ > 1) {
      throw bad_input("a warm-up from " + std::to_string(*options_.warmup_start_lr) +
                          " would fall to the peak of " + std::to_string(peak_),
                      key("warmup_start_lr"), "start at most there");
    }
  }
  if (options_.warmup_rule == WarmupRule::kUntuned && options_.warmup_shape == WarmupShape::kLinear) {
    // min(1, (1 - beta2) t / 2) of update t, from 1.
    const double updates = std::max(1.0, 2 / (1 - adam_.beta2));
    start_ = 1 / updates;
    warmup_ = clock({updates - 1, Unit::kBatches}, timeline, "warmup");
  } else if (options_.warmup_rule == WarmupRule::kLength) {
    warmup_ = clock(options_.warmup, timeline, "warmup");
    if (options_.warmup_fixed_in == WarmupFixedIn::kSteps && options_.warmup.unit != Unit::kBatches &&
        !by_time_)
      warmup_ *= static_cast<double>(timeline.global_batch()) / static_cast<double>(options_.base_batch);
  }
  if (options_.warmup_rule == WarmupRule::kRadam && !has_rectification(adam_.beta2)) {
    throw bad_input("RAdam's rectification never begins with a beta2 of " + std::to_string(adam_.beta2),
                    key("warmup"), "it needs one above 2/3, after the batch was scaled for");
  }
  if (warmup_ <= end_) return;
  const bool by_rule = options_.warmup_rule != WarmupRule::kLength;
  const auto steps = std::to_string(timeline.steps_at(static_cast<int64_t>(std::llround(warmup_))));
  throw bad_input("the warm-up (" + (by_rule || !by_time_ ? steps + " steps" : to_string(options_.warmup)) +
                      ") is longer than the run (" + to_string(duration) + ")",
                  key("warmup"), "shorten it, or lengthen run.duration");
}

void Schedule::set_decay(const Timeline& timeline) {
  every_ = clock(options_.decay_every, timeline, "decay_every");
  scale_ = options_.timescale.is_zero() ? warmup_ : clock(options_.timescale, timeline, "timescale");
  cooldown_ = clock(options_.cooldown, timeline, "cooldown");
  for (const Length& length : options_.decay_at) {
    at_.push_back(clock(length, timeline, "decay_at") - warmup_);
    if (at_.back() >= 0) continue;
    throw bad_input("the rate would fall at " + to_string(length) + ", in the warm-up", key("decay_at"),
                    "it is counted from the beginning of the run");
  }
  std::ranges::sort(at_);
  if (options_.decay == Decay::kInverseSqrt && scale_ == 0)
    throw bad_input("without a warm-up there is no timescale", key("timescale"), "give it a length");
  if (cooldown_ > end_ - warmup_)
    throw bad_input("the cooldown (" + to_string(options_.cooldown) + ") begins in the warm-up",
                    key("cooldown"), "shorten one of them, or lengthen run.duration");
}

double Schedule::at(const Progress& progress) const {
  const double now = by_time_ ? progress.seconds : static_cast<double>(progress.samples);
  const double share =
      now < warmup_ ? rise(options_.warmup_shape, start_, now / warmup_) : fall(now - warmup_);
  return peak_ * share * by_rule(progress.step);
}

// The share of the peak, so long after the warm-up.
double Schedule::fall(double since_warmup) const {
  const double floor = options_.min_lr_factor, length = end_ - warmup_;
  since_warmup = std::min(since_warmup, length);  // past the end it stays where it ended
  const double done = length > 0 ? since_warmup / length : 0;
  switch (options_.decay) {
    case Decay::kConstant:
      return 1;
    case Decay::kCosine: {
      const double turns = done * static_cast<double>(options_.cycles);
      if (turns >= static_cast<double>(options_.cycles) - kRounding) return floor;
      return fall_cosine(std::max(0.0, turns - std::floor(turns + kRounding)), floor);
    }
    case Decay::kOneCycle:
      return fall_cosine(done, floor);
    case Decay::kLinear:
      return fall_polynomial(done, 1, floor);
    case Decay::kPolynomial:
      return fall_polynomial(done, options_.decay_power, floor);
    case Decay::kStep: {
      const double falls =
          at_.empty() ? std::floor(since_warmup / every_ + kRounding)
                      : static_cast<double>(std::ranges::upper_bound(at_, since_warmup) - at_.begin());
      return std::max(floor, std::pow(options_.decay_factor, falls));
    }
    case Decay::kExponential:
      return std::max(floor, std::pow(options_.decay_factor, since_warmup / every_));
    case Decay::kInverseSqrt:
      return std::max(floor, std::sqrt(scale_ / (scale_ + since_warmup)));
    case Decay::kWsd: {
      const double cooled = cooldown_ > 0 ? (since_warmup - (length - cooldown_)) / cooldown_ : 0;
      const double part = std::clamp(cooled, 0.0, 1.0);
      if (options_.cooldown_shape == CooldownShape::kCosine) return fall_cosine(part, floor);
      if (options_.cooldown_shape == CooldownShape::k1Sqrt) return fall_1_sqrt(part, floor);
      return fall_polynomial(part, 1, floor);
    }
  }
  return 1;
}

double Schedule::by_rule(int64_t step) const {
  if (options_.warmup_rule == WarmupRule::kRadam) return radam_rectification(adam_.beta2, step + 1);
  if (options_.warmup_rule == WarmupRule::kUntuned && options_.warmup_shape == WarmupShape::kExponential)
    return untuned_exponential(adam_.beta2, step + 1);
  return 1;
}

}  // namespace rekindle
