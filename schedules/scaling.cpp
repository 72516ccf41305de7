// SPDX-License-Identifier: Apache-2.0
#include "schedules/scaling.h"

#include <cmath>

#include "core/error.h"

namespace rekindle {
namespace {

double ratio(const ScheduleOptions& options, int64_t global_batch) {
  return static_cast<double>(global_batch) / static_cast<double>(options.base_batch);
}

double scaled_beta(double beta, const char* name, const ScheduleOptions& options, int64_t global_batch) {
  const double scaled = 1 - ratio(options, global_batch) * (1 - beta);
  constexpr double kRounding = 1e-9;
  if (scaled > kRounding) return scaled;
  const auto limit =
      static_cast<int64_t>(std::ceil(static_cast<double>(options.base_batch) / (1 - beta) - 1e-6));
  throw bad_input("a global batch of " + std::to_string(global_batch) +
                      " is beyond what adam-sqrt covers: " + name + " = " + std::to_string(beta) + " at " +
                      std::to_string(options.base_batch) + " would fall to " + std::to_string(scaled),
                  "schedule.lr_scaling", "stay below " + std::to_string(limit) + ", or scale by \"sqrt\"");
}

}  // namespace

double scaled_lr(const ScheduleOptions& options, int64_t global_batch) {
  switch (options.lr_scaling) {
    case LrScaling::kNone:
      return options.base_lr;
    case LrScaling::kLinear:
      return options.base_lr * ratio(options, global_batch);
    case LrScaling::kSqrt:
    case LrScaling::kAdamSqrt:
      return options.base_lr * std::sqrt(ratio(options, global_batch));
  }
  return options.base_lr;
}

AdamConstants scaled_adam(const ScheduleOptions& options, const AdamConstants& base, int64_t global_batch) {
  if (options.lr_scaling != LrScaling::kAdamSqrt) return base;
  return {scaled_beta(base.beta1, "beta1", options, global_batch),
          scaled_beta(base.beta2, "beta2", options, global_batch),
          base.eps / std::sqrt(ratio(options, global_batch))};
}

}  // namespace rekindle
