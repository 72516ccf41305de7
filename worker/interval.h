// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "core/progress.h"
#include "core/units.h"

namespace rekindle {

// "every 1ep": whether a multiple of a length lies between two points of a run. Batches are counted in steps,
// time in the seconds that the ranks agreed on, all else in samples; a share is one of the run's `duration`,
// in its unit. A length of 0 is never due.
class Interval {
 public:
  Interval(const Length& length, const Timeline& timeline, const Length& duration);

  bool due(const Progress& before, const Progress& after) const;

 private:
  double position(const Progress& progress) const;

  Unit unit_;
  double every_;
};

}  // namespace rekindle
