// SPDX-License-Identifier: Apache-2.0
#include "core/squares.h"

#include "core/widest.h"

namespace rekindle {
namespace {

constexpr int kLanes = 16;

REKINDLE_WIDEST void add_squares(double* lanes, const float* values, int64_t n) {
  for (int64_t i = 0; i + kLanes <= n; i += kLanes) {
    for (int lane = 0; lane < kLanes; ++lane) {
      const double value = values[i + lane];
      lanes[lane] += value * value;
    }
  }
}

}  // namespace

double sum_of_squares(const float* values, int64_t count) {
  double lanes[kLanes] = {};
  add_squares(lanes, values, count);
  double total = 0;
  for (const double lane : lanes) total += lane;
  for (int64_t i = count / kLanes * kLanes; i < count; ++i)
    total += static_cast<double>(values[i]) * values[i];
  return total;
}

}  // namespace rekindle
