// SPDX-License-Identifier: Apache-2.0
#include "worker/interval.h"

#include <cmath>

namespace rekindle {

Interval::Interval(const Length& length, const Timeline& timeline, const Length& duration)
    : unit_(length.unit) {
  if (unit_ == Unit::kShare && duration.is_time()) {
    unit_ = Unit::kSeconds;
    every_ = length.value * duration.value;
  } else if (unit_ == Unit::kBatches || unit_ == Unit::kSeconds) {
    every_ = length.value;
  } else {
    every_ = timeline.samples_in(length, duration.is_time() ? 0 : timeline.samples_in(duration, 0));
  }
}

double Interval::position(const Progress& progress) const {
  switch (unit_) {
    case Unit::kBatches:
      return static_cast<double>(progress.step);
    case Unit::kSeconds:
      return progress.seconds;
    default:
      return static_cast<double>(progress.samples);
  }
}

bool Interval::due(const Progress& before, const Progress& after) const {
  if (every_ <= 0) return false;
  return std::floor(position(after) / every_) > std::floor(position(before) / every_);
}

}  // namespace rekindle
