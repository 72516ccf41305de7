// SPDX-License-Identifier: Apache-2.0
#include "schedules/schedule.h"

#include <algorithm>
#include <cmath>
#include <numbers>

#include "core/error.h"

namespace rekindle {

double scaled_lr(const ScheduleOptions& options, int64_t global_batch) {
  if (options.lr_scaling == LrScaling::kNone) return options.base_lr;
  return options.base_lr * static_cast<double>(global_batch) / static_cast<double>(options.base_batch);
}

Schedule::Schedule(const ScheduleOptions& options, const Timeline& timeline, const Length& duration)
    : options_(options), peak_(scaled_lr(options, timeline.global_batch())), by_time_(duration.is_time()) {
  const Length& warmup = options.warmup;
  if (by_time_) {
    end_ = duration.value;
    if (!warmup.is_zero() && !warmup.is_time() && warmup.unit != Unit::kShare) {
      throw bad_input(
          "a run that lasts " + to_string(duration) + " has no fixed number of samples to warm up in",
          "schedule.warmup", "give the warm-up as a time or as a share, such as \"0.06dur\"");
    }
    warmup_ = warmup.unit == Unit::kShare ? warmup.value * end_ : warmup.value;
  } else {
    end_ = timeline.samples_in(duration, 0);
    if (warmup.is_time()) {
      throw bad_input("a warm-up of " + to_string(warmup) + " in a run that lasts " + to_string(duration),
                      "schedule.warmup",
                      "give both as times, or the warm-up as a share, such as \"0.06dur\"");
    }
    warmup_ = timeline.samples_in(warmup, end_);
  }
  if (warmup_ > end_) {
    throw bad_input(
        "the warm-up (" + to_string(warmup) + ") is longer than the run (" + to_string(duration) + ")",
        "schedule.warmup", "shorten it, or lengthen run.duration");
  }
}

double Schedule::at(const Progress& progress) const {
  const double now = by_time_ ? progress.seconds : static_cast<double>(progress.samples);
  if (now < warmup_) {
    const double start = options_.warmup_start_factor;
    return peak_ * (start + (1 - start) * now / warmup_);
  }
  if (options_.decay == Decay::kConstant || end_ <= warmup_) return peak_;
  const double done = std::min(1.0, (now - warmup_) / (end_ - warmup_));
  const double floor = options_.min_lr_factor;
  return peak_ * (floor + (1 - floor) * 0.5 * (1 + std::cos(std::numbers::pi * done)));
}

}  // namespace rekindle
