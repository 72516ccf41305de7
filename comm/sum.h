// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <span>

#include "comm/sum_plan.h"

namespace rekindle {

// out[i] = sources[0][i] + sources[1][i] + ..., always in this order, so that every rank gets the same bits.
// `out` may be one of the sources; the sources do not overlap otherwise.
void sum(float* out, std::span<const float* const> sources, int64_t count);

// The same in another order: `order` says how the sources are added (SumOrder).
void sum(float* out, std::span<const float* const> sources, const SumOrder& order, int64_t count);
void sum(double* out, std::span<const double* const> sources, const SumOrder& order, int64_t count);

}  // namespace rekindle
