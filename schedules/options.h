// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <string>

#include "core/units.h"

namespace rekindle {

enum class LrScaling { kNone, kLinear };
enum class WarmupShape { kLinear };
enum class Decay { kConstant, kCosine };

// `[schedule]`: warm-up x decay, and how the rate follows the global batch.
struct ScheduleOptions {
  double base_lr = 0;      // required
  int64_t base_batch = 0;  // the batch base_lr was tuned at; needed where lr_scaling is not none
  LrScaling lr_scaling = LrScaling::kNone;
  Length warmup;  // none by default
  WarmupShape warmup_shape = WarmupShape::kLinear;
  double warmup_start_factor = 0;  // share of the peak
  Decay decay = Decay::kConstant;
  double min_lr_factor = 0;  // share of the peak, where the decay ends
};

}  // namespace rekindle
