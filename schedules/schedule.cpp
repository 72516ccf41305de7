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
constexpr double kSettled = 0.2;    // a noise scale stays where it is within this share

bool is_better(double value, const ScheduleState::Watch& watch, bool more, double threshold) {
  if (!std::isfinite(value)) return false;
  if (!watch.best) return true;
  return more ? value > *watch.best * (1 + threshold) : value < *watch.best * (1 - threshold);
}

std::string key(const char* name) {
  return std::string("schedule.") + name;
}

}  // namespace

Schedule::Schedule(const ScheduleOptions& options, const Timeline& timeline, const Length& duration,
                   const AdamConstants& adam, const ScheduleState& state)
    : options_(options),
      adam_(scaled_adam(options, adam, timeline.global_batch())),
      peak_(scaled_lr(options, timeline.global_batch())),
      by_time_(duration.is_time()),
      end_(by_time_ ? duration.value : timeline.samples_in(duration, 0)),
      before_(by_time_ ? state.origin.seconds : static_cast<double>(state.origin.samples)) {
  set_warmup(timeline);
  if (state.start_lr) start_ = std::min(1.0, *state.start_lr / peak_);
  // A child was to start at its parent's rate, and there is no parent yet, or it had none: these shapes would
  // stay at zero.
  const bool needs_start =
      options_.warmup_shape == WarmupShape::kExponential || options_.warmup_shape == WarmupShape::kConstant;
  if (needs_start && start_ <= 0 && options_.warmup_rule == WarmupRule::kLength)
    options_.warmup_shape = WarmupShape::kLinear;
  over_ = warmup_end(state);
  if (rises_with_updates() && !by_time_) {
    const auto steps = untuned_linear_updates(adam_.beta2) - 1 - state.updates_ahead;
    by_rule_ = before_ + static_cast<double>(timeline.samples_after(std::max<int64_t>(0, steps)));
  }
  check_length(timeline, duration);
  set_decay(timeline);
}

double Schedule::now_in_run(const Progress& progress) const {
  return by_time_ ? progress.seconds : static_cast<double>(progress.samples);
}

double Schedule::now(const Progress& progress) const {
  return now_in_run(progress) + before_;
}

double Schedule::warmup_end(const ScheduleState& state) const {
  return state.warmup_end ? now_in_run(*state.warmup_end) : warmup_;
}

double Schedule::clock(const Length& length, const Timeline& timeline, const std::string& name) const {
  if (length.is_zero()) return 0;
  if (by_time_) {
    if (length.unit == Unit::kShare) return length.value * end_;
    if (length.is_time()) return length.value;
    throw bad_input("a run that ends by the clock has no fixed number of samples for " + to_string(length),
                    name, "give a time or a share, such as \"0.06dur\"");
  }
  if (length.is_time()) {
    throw bad_input(to_string(length) + " of time in a run that is measured in samples", name,
                    "give both as times, or a share, such as \"0.06dur\"");
  }
  return timeline.samples_in(length, end_);
}

void Schedule::set_warmup(const Timeline& timeline) {
  start_ = options_.warmup_start_factor;
  if (options_.warmup_start_lr) {
    start_ = *options_.warmup_start_lr / peak_;
    if (start_ > 1) {
      throw bad_input("a warm-up from " + std::to_string(*options_.warmup_start_lr) +
                          " would fall to the peak of " + std::to_string(peak_),
                      key("warmup_start_lr"), "start at most there");
    }
  }
  if (options_.warmup_rule == WarmupRule::kLength) {
    warmup_ = clock(options_.warmup, timeline, key("warmup"));
    if (options_.warmup_fixed_in == WarmupFixedIn::kSteps && options_.warmup.unit != Unit::kBatches &&
        !by_time_)
      warmup_ *= static_cast<double>(timeline.global_batch()) / static_cast<double>(options_.base_batch);
  }
  if (options_.warmup_rule == WarmupRule::kRadam && !has_rectification(adam_.beta2)) {
    throw bad_input("RAdam's rectification never begins with a beta2 of " + std::to_string(adam_.beta2),
                    key("warmup"), "it needs one above 2/3, after the batch was scaled for");
  }
  warmup_min_ = clock(options_.warmup_min, timeline, key("warmup_min"));
  if (warmup_min_ > warmup_) {
    throw bad_input(
        "the warm-up may not end before " + to_string(options_.warmup_min) + ", and is not that long",
        key("warmup_min"), "shorten it, or lengthen schedule.warmup");
  }
}

void Schedule::check_length(const Timeline& timeline, const Length& duration) const {
  if (over_ <= before_ + end_) return;
  const auto steps = std::to_string(timeline.steps_at(static_cast<int64_t>(std::llround(warmup_))));
  throw bad_input("the warm-up (" + (by_time_ ? to_string(options_.warmup) : steps + " steps") +
                      ") is longer than the run (" + to_string(duration) + ")",
                  key("warmup"), "shorten it, or lengthen run.duration");
}

void Schedule::set_decay(const Timeline& timeline) {
  every_ = clock(options_.decay_every, timeline, key("decay_every"));
  scale_ = options_.timescale.is_zero() ? warmup_ : clock(options_.timescale, timeline, key("timescale"));
  cooldown_ = clock(options_.cooldown, timeline, key("cooldown"));
  settle_ = clock(options_.settle, timeline, key("settle"));
  for (const Length& length : options_.decay_at) {
    at_.push_back(clock(length, timeline, key("decay_at")));
    if (at_.back() >= over_) continue;
    throw bad_input("the rate would fall at " + to_string(length) + ", in the warm-up", key("decay_at"),
                    "it is counted from the beginning of the run");
  }
  std::ranges::sort(at_);
  if (options_.decay == Decay::kInverseSqrt && scale_ == 0)
    throw bad_input("without the length of a warm-up there is no timescale", key("timescale"),
                    "give it a length");
  if (settle_ > 0 && cooldown_ + settle_ > before_ + end_ - over_) {
    throw bad_input("the cooldown (" + to_string(options_.cooldown) + ") begins before the rate has settled",
                    key("settle"), "shorten one of them, or lengthen run.duration");
  }
  if (before_ > 0 && cooldown_ > end_) {
    throw bad_input("the cooldown (" + to_string(options_.cooldown) +
                        ") would have begun before this run, which goes on with its parent's schedule",
                    key("cooldown"), "shorten it, or lengthen run.duration");
  }
  if (cooldown_ > before_ + end_ - over_)
    throw bad_input("the cooldown (" + to_string(options_.cooldown) + ") begins in the warm-up",
                    key("cooldown"), "shorten one of them, or lengthen run.duration");
}

double Schedule::at(const Progress& progress, const ScheduleState& state) const {
  const double here = now(progress), warmup = warmup_end(state);
  const double factor = by_rule(progress.step + state.updates_ahead + 1) * state.rollback_factor;
  if (here < warmup) return peak_ * factor * rise(options_.warmup_shape, start_, here / warmup_);
  return peak_ * factor * state.reached * fall(here, warmup) * state.plateau_factor;
}

double Schedule::momentum_at(const Progress& progress, double momentum, const ScheduleState& state) const {
  if (!options_.warmup_momentum) return momentum;
  const double here = now(progress), warmup = warmup_end(state);
  const double edge = *options_.warmup_momentum;
  if (here < warmup) {
    const bool curved = options_.warmup_shape == WarmupShape::kCosine;
    const double done = rise(curved ? WarmupShape::kCosine : WarmupShape::kLinear, 0, here / warmup_);
    return edge + (momentum - edge) * done;
  }
  if (options_.decay != Decay::kOneCycle) return momentum;
  const double length = before_ + end_ - warmup;
  return momentum + (edge - momentum) * (1 - fall_cosine(std::min(1.0, (here - warmup) / length), 0));
}

// The share of the peak, at a time after the warm-up.
double Schedule::fall(double now, double warmup) const {
  const double floor = options_.min_lr_factor;
  const double length = before_ + end_ - warmup;
  const double since_warmup = std::min(now - warmup, length);  // past the end it stays where it ended
  const double done = length > 0 ? since_warmup / length : 0;
  switch (options_.decay) {
    case Decay::kConstant:
    case Decay::kPlateau:
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
      const double falls = at_.empty()
                               ? std::floor(since_warmup / every_ + kRounding)
                               : static_cast<double>(std::ranges::upper_bound(at_, now) - at_.begin());
      return std::max(floor, std::pow(options_.decay_factor, falls));
    }
    case Decay::kExponential:
      return std::max(floor, std::pow(options_.decay_factor, since_warmup / every_));
    case Decay::kInverseSqrt:
      return std::max(floor, std::sqrt(scale_ / (scale_ + since_warmup)));
    case Decay::kWsd: {
      const double stable = options_.stable_factor;
      if (since_warmup < settle_) return fall_cosine(since_warmup / settle_, stable);
      const double cooled = cooldown_ > 0 ? (since_warmup - (length - cooldown_)) / cooldown_ : 0;
      const double part = std::clamp(cooled, 0.0, 1.0), lowest = floor / stable;
      if (options_.cooldown_shape == CooldownShape::kCosine) return stable * fall_cosine(part, lowest);
      if (options_.cooldown_shape == CooldownShape::k1Sqrt) return stable * fall_1_sqrt(part, lowest);
      return stable * fall_polynomial(part, 1, lowest);
    }
  }
  return 1;
}

bool Schedule::hear(const Progress& after, const StepMeasures& step, ScheduleState& state) const {
  if (state.warmup_end || now(after) >= warmup_) return false;
  if (options_.warmup_until == WarmupUntil::kTrainingLoss) {
    state.loss.add(step.loss);
    const double mean = state.loss.sum / state.loss.weight;
    return hear_measure(after, mean, is_better(mean, state.warmup, false, 0),
                        options_.warmup_bound && mean <= *options_.warmup_bound, state);
  }
  if (options_.warmup_until == WarmupUntil::kNoiseScale && step.noise_scale) {
    const double scale = *step.noise_scale;
    const bool moved =
        !state.warmup.best || std::abs(scale - *state.warmup.best) > kSettled * *state.warmup.best;
    return hear_measure(after, scale, moved, options_.warmup_bound && scale >= *options_.warmup_bound, state);
  }
  return false;
}

bool Schedule::hear(const Progress& after, const ValidationMeasures& scores, ScheduleState& state) const {
  if (now(after) < warmup_end(state)) {
    const bool more = options_.warmup_until == WarmupUntil::kValidationAccuracy;
    if (!more && options_.warmup_until != WarmupUntil::kValidationLoss) return false;
    const double measure = more ? scores.accuracy : scores.loss;
    const bool reached = options_.warmup_bound &&
                         (more ? measure >= *options_.warmup_bound : measure <= *options_.warmup_bound);
    return hear_measure(after, measure, is_better(measure, state.warmup, more, 0), reached, state);
  }
  if (options_.decay != Decay::kPlateau) return false;
  const int64_t updates = after.step + state.updates_ahead;
  if (rises_with_updates() && updates + 1 < untuned_linear_updates(adam_.beta2)) return false;
  // As PyTorch's ReduceLROnPlateau, with a threshold relative to the best.
  ScheduleState::Watch& watch = state.plateau;
  const bool more = options_.decay_metric == DecayMetric::kAccuracy;
  const double measure = more ? scores.accuracy : scores.loss;
  if (is_better(measure, watch, more, options_.decay_threshold)) {
    watch.best = measure;
    watch.waited = 0;
  } else {
    ++watch.waited;
  }
  if (watch.cooldown > 0) {
    --watch.cooldown;
    watch.waited = 0;
  }
  if (watch.waited <= options_.decay_patience) return false;
  watch.cooldown = options_.decay_cooldown;
  watch.waited = 0;
  const double before = state.plateau_factor;
  state.plateau_factor = std::max(options_.min_lr_factor, before * options_.decay_factor);
  return state.plateau_factor < before;
}

// Whether that is the end of the warm-up.
bool Schedule::hear_measure(const Progress& after, double measure, bool better, bool reached,
                            ScheduleState& state) const {
  const double here = now(after);
  if (better) state.warmup.best = measure;
  state.warmup.waited = better ? 0 : state.warmup.waited + 1;
  const bool stalls = options_.warmup_patience > 0 && state.warmup.waited >= options_.warmup_patience;
  if ((!reached && !stalls) || here < warmup_min_) return false;
  state.warmup_end = Progress{after.samples + state.origin.samples, after.step + state.origin.step,
                              after.seconds + state.origin.seconds};
  // The rate that it got to takes the place of the peak; one that stood still goes there.
  state.reached = options_.warmup_shape == WarmupShape::kConstant
                      ? 1
                      : rise(options_.warmup_shape, start_, here / warmup_);
  return true;
}

bool Schedule::rises_with_updates() const {
  return options_.warmup_rule == WarmupRule::kUntuned && options_.warmup_shape == WarmupShape::kLinear;
}

// What Adam's constants ask of update number `t`, from 1.
double Schedule::by_rule(int64_t t) const {
  switch (options_.warmup_rule) {
    case WarmupRule::kLength:
      return 1;
    case WarmupRule::kRadam:
      return radam_rectification(adam_.beta2, t);
    case WarmupRule::kUntuned:
      return rises_with_updates() ? untuned_linear(adam_.beta2, t) : untuned_exponential(adam_.beta2, t);
  }
  return 1;
}

}  // namespace rekindle
