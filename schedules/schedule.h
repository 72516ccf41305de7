// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <vector>

#include "core/progress.h"
#include "schedules/options.h"
#include "schedules/scaling.h"

namespace rekindle {

// The learning rate as a pure function of progress: warm-up, then decay, scaled to the global batch. Nothing
// remembers, so any call in any order gives the same, on any number of workers, after any resume.
//
// The rate of a step is the schedule at what was seen before it: a linear warm-up from 0 takes its first step
// at 0 (as Hugging Face's schedulers do). Warm-up ends at the peak, where the decay starts; the decay ends
// with the run. Warm-ups that have no end, by Adam's constants, are factors of a decay that starts with the
// run.
class Schedule {
 public:
  // `adam` is what the optimizer's constants are at the base batch. Throws bad_input for lengths that do not
  // fit the run: times in a run by samples, or the reverse, and parts that are longer than it.
  Schedule(const ScheduleOptions& options, const Timeline& timeline, const Length& duration,
           const AdamConstants& adam = {});

  double at(const Progress& progress) const;

  double peak() const { return peak_; }                // base_lr scaled to the global batch
  const AdamConstants& adam() const { return adam_; }  // likewise
  double warmup() const { return warmup_; }  // in samples, or in seconds where the run's duration is a time
  double end() const { return end_; }        // likewise

 private:
  void set_warmup(const Timeline& timeline, const Length& duration);
  void set_decay(const Timeline& timeline);
  double clock(const Length& length, const Timeline& timeline, const char* key) const;
  double fall(double since_warmup) const;
  double by_rule(int64_t step) const;

  ScheduleOptions options_;
  AdamConstants adam_;
  double peak_ = 0;
  bool by_time_ = false;

  // By the run's clock.
  double end_ = 0, warmup_ = 0;
  double start_ = 0;  // share of the peak, where the warm-up begins
  double every_ = 0, scale_ = 0, cooldown_ = 0;
  std::vector<double> at_;  // since the end of the warm-up, ascending
};

}  // namespace rekindle
