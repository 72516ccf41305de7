// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "core/progress.h"
#include "core/schedule_state.h"
#include "schedules/options.h"
#include "schedules/scaling.h"

namespace rekindle {

// What a run measures that a schedule may listen to.
struct StepMeasures {
  double loss = 0;
  std::optional<double> noise_scale;  // none where it cannot be told yet
};
struct ValidationMeasures {
  double loss = 0, accuracy = 0;
};

// The learning rate as a pure function of progress: warm-up, then decay, scaled to the global batch. Nothing
// remembers, so any call in any order gives the same, on any number of workers, after any resume. What only
// the run can tell (that a measure ended the warm-up, a plateau) stands in a ScheduleState, which the
// schedule reads and hear() writes.
//
// The rate of a step is the schedule at what was seen before it: a linear warm-up from 0 takes its first step
// at 0 (as Hugging Face's schedulers do). Warm-up ends at the peak, where the decay starts; the decay ends
// with the run. Warm-ups by Adam's constants follow its count of updates: they are factors of a decay that
// starts with the run.
class Schedule {
 public:
  // `adam` is what the optimizer's constants are at the base batch; of `state` it takes where the schedule
  // begins. Throws bad_input for lengths that do not fit the run: times in a run by samples, or the reverse,
  // and parts that are longer than it.
  Schedule(const ScheduleOptions& options, const Timeline& timeline, const Length& duration,
           const AdamConstants& adam = {}, const ScheduleState& state = {});

  double at(const Progress& progress, const ScheduleState& state = {}) const;

  // Momentum, or Adam's beta1, where the optimizer has `momentum`: it moves with the warm-up.
  double momentum_at(const Progress& progress, double momentum, const ScheduleState& state = {}) const;

  // After a step, and after an evaluation of the validation data: every rank says the same. True where that
  // ended the warm-up or was a fall.
  bool hear(const Progress& after, const StepMeasures& step, ScheduleState& state) const;
  bool hear(const Progress& after, const ValidationMeasures& scores, ScheduleState& state) const;

  double peak() const { return peak_; }                // base_lr scaled to the global batch
  const AdamConstants& adam() const { return adam_; }  // likewise
  // In samples, or in seconds where the run's duration is a time.
  // The most that the warm-up takes; where a measure ended it, that; of one by rule, as if each step were an
  // update.
  double warmup() const { return std::max(over_, by_rule_); }
  double before() const { return before_; }  // what the schedule saw before the run
  double end() const { return end_; }        // of the run, without that

  // A length on the run's clock, `key` is for the error.
  double clock(const Length& length, const Timeline& timeline, const std::string& key) const;
  double now_in_run(const Progress& progress) const;  // on that clock

 private:
  double now(const Progress& progress) const;  // with what was seen before the run
  void set_warmup(const Timeline& timeline);
  void check_length(const Timeline& timeline, const Length& duration) const;
  void set_decay(const Timeline& timeline);
  double fall(double now, double warmup) const;
  double by_rule(int64_t t) const;
  bool rises_with_updates() const;  // a warm-up by rule that has an end
  bool hear_measure(const Progress& after, double measure, bool better, bool reached,
                    ScheduleState& state) const;
  double warmup_end(const ScheduleState& state) const;  // on the clock

  ScheduleOptions options_;
  AdamConstants adam_;
  double peak_ = 0;
  bool by_time_ = false;

  // By the run's clock.
  double end_ = 0;     // of the run
  double before_ = 0;  // what the schedule saw before the run
  double warmup_ = 0;  // of its curve
  double over_ = 0;    // when it ends, as far as is known
  double by_rule_ = 0;
  double start_ = 0;   // share of the peak, where the warm-up begins
  double every_ = 0, scale_ = 0, cooldown_ = 0, settle_ = 0, warmup_min_ = 0;
  std::vector<double> at_;  // ascending
};

}  // namespace rekindle
