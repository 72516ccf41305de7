// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include "schedules/options.h"

namespace rekindle {

// Adam's constants, as PyTorch names them.
struct AdamConstants {
  double beta1 = 0.9, beta2 = 0.999, eps = 1e-8;

  bool operator==(const AdamConstants&) const = default;
};

// base_lr, scaled from the batch that it was tuned at to the one that is used.
double scaled_lr(const ScheduleOptions& options, int64_t global_batch);

// The same for Adam's constants: with kAdamSqrt beta becomes 1 - k(1 - beta), and eps eps/sqrt(k), so that
// the averages reach back as many samples as before (Malladi et al. 2022, definition 3). Throws bad_input
// that names the batch where a beta would not stay above 0.
AdamConstants scaled_adam(const ScheduleOptions& options, const AdamConstants& base, int64_t global_batch);

}  // namespace rekindle
