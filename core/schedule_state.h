// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <optional>

#include "core/progress.h"

namespace rekindle {

// What a schedule cannot know from the progress alone: where it began, and what the run has measured for it.
// All of it is agreed by all ranks and stands in the checkpoints, so that a resumed run has the same rates.
struct ScheduleState {
  // A number that is watched for getting better.
  struct Watch {
    std::optional<double> best;  // none before the first look
    int64_t waited = 0;          // looks since then that were no better
    int64_t cooldown = 0;        // looks that do not count yet

    bool operator==(const Watch&) const = default;
  };
  // A mean that forgets, over steps: sum / weight.
  struct Mean {
    static constexpr double kNewest = 0.02;  // share that the newest step is

    double sum = 0, weight = 0;

    void add(double value) {
      sum += kNewest * (value - sum);
      weight += kNewest * (1 - weight);
    }
    bool operator==(const Mean&) const = default;
  };

  // Of a child that goes on with its parent's schedule.
  Progress origin;                 // what that had seen
  std::optional<double> start_lr;  // the rate that a warm-up starts from again
  double peak_factor = 1;          // of the usual peak, since then

  // Updates that the optimizer has made, less the steps of the run: it may have begun at its parent's count,
  // and a step that is skipped makes none. Checkpoints have both numbers, and not this one.
  int64_t updates_ahead = 0;

  double lr = 0;  // of the step before
  // Where a measure ended the warm-up, with what the schedule had seen before the run; and the share of the
  // peak that was reached there.
  std::optional<Progress> warmup_end;
  double reached = 1;
  Watch warmup, plateau;
  Mean loss;                  // of the steps
  Mean noise, signal;         // of their gradients: see worker/diagnostics.h
  double plateau_factor = 1;  // of the rate
  double rollback_factor = 1;
  int64_t rollbacks = 0;

  bool operator==(const ScheduleState&) const = default;
};

}  // namespace rekindle
