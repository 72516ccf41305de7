// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

namespace rekindle {

// The sum of squares in float64: 16 lanes that are added at the end in one fixed order. Infinity and NaN pass
// through.
double sum_of_squares(const float* values, int64_t count);

}  // namespace rekindle
