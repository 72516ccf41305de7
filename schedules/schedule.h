// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include "core/progress.h"
#include "schedules/options.h"

namespace rekindle {

// The learning rate as a pure function of progress: warm-up x decay, scaled to the global batch. Nothing
// remembers, so any call in any order gives the same, on any number of workers, after any resume.
//
// The rate of a step is the schedule at what was seen before it: a linear warm-up from 0 takes its first step
// at 0 (as Hugging Face's schedulers do). Warm-up ends at the peak, where the decay starts; the decay ends
// with the run.
class Schedule {
 public:
  // Throws bad_input where the warm-up is a time and the run is not, or the reverse, or is longer than the
  // run.
  Schedule(const ScheduleOptions& options, const Timeline& timeline, const Length& duration);

  double at(const Progress& progress) const;

  double peak() const { return peak_; }      // base_lr scaled to the global batch (Goyal et al. 2017)
  double warmup() const { return warmup_; }  // in samples, or in seconds where the run's duration is a time
  double end() const { return end_; }        // likewise

 private:
  ScheduleOptions options_;
  double peak_ = 0, warmup_ = 0, end_ = 0;
  bool by_time_ = false;
};

// base_lr scaled from the batch that it was tuned at to the one that is used.
double scaled_lr(const ScheduleOptions& options, int64_t global_batch);

}  // namespace rekindle
