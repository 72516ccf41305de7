// SPDX-License-Identifier: Apache-2.0
#include "worker/precision.h"

#include <ATen/autocast_mode.h>

namespace rekindle {

Autocast::Autocast(Precision precision, c10::Device device) : precision_(precision), device_(device) {
  if (precision == Precision::kFloat32) return;
  at::autocast::set_autocast_dtype(device.type(),
                                   precision == Precision::kBFloat16 ? at::kBFloat16 : at::kHalf);
  at::autocast::set_autocast_enabled(device.type(), true);
  at::autocast::set_autocast_cache_enabled(true);
}

Autocast::~Autocast() {
  if (precision_ == Precision::kFloat32) return;
  at::autocast::set_autocast_enabled(device_.type(), false);
  at::autocast::clear_cache();
}

void adjust(LossScale& scale, bool finite) {
  constexpr int64_t kGrowsAfter = 2000;
  constexpr double kMost = 16777216;  // 2^24
  if (!finite) {
    scale.scale /= 2;
    scale.good_steps = 0;
  } else if (++scale.good_steps == kGrowsAfter) {
    if (scale.scale < kMost) scale.scale *= 2;
    scale.good_steps = 0;
  }
}

}  // namespace rekindle
