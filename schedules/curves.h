// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include "schedules/options.h"

namespace rekindle {

// Shares of the peak. `done` runs from 0 to 1 over what the curve is drawn on.

// From `start` to 1; kConstant stays at `start` up to the end.
double rise(WarmupShape shape, double start, double done);

// From 1 to `floor`.
double fall_cosine(double done, double floor);
double fall_polynomial(double done, double power, double floor);
double fall_1_sqrt(double done, double floor);

// What Adam's own constants ask of its update number `t`, from 1; the last two approach 1 and never reach it.
double untuned_linear(double beta2, int64_t t);       // Ma & Yarats 2021, (4.3): min(1, (1 - beta2) t / 2)
int64_t untuned_linear_updates(double beta2);         // the first that is 1
double untuned_exponential(double beta2, int64_t t);  // Ma & Yarats 2021, (4.2)
bool has_rectification(double beta2);                 // whether the variance can ever be told
// Liu et al. 2020; 0 where the variance cannot be told yet (PyTorch's RAdam leaves out the division there).
double radam_rectification(double beta2, int64_t t);

}  // namespace rekindle
