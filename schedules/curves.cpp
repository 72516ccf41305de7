// SPDX-License-Identifier: Apache-2.0
#include "schedules/curves.h"

#include <algorithm>
#include <cmath>
#include <numbers>

namespace rekindle {

double rise(WarmupShape shape, double start, double done) {
  switch (shape) {
    case WarmupShape::kLinear:
      return start + (1 - start) * done;
    case WarmupShape::kExponential:
      return std::pow(start, 1 - done);
    case WarmupShape::kCosine:
      return start + (1 - start) * 0.5 * (1 - std::cos(std::numbers::pi * done));
    case WarmupShape::kConstant:
      return done < 1 ? start : 1;
  }
  return 1;
}

double fall_cosine(double done, double floor) {
  return floor + (1 - floor) * 0.5 * (1 + std::cos(std::numbers::pi * done));
}

double fall_polynomial(double done, double power, double floor) {
  return floor + (1 - floor) * std::pow(1 - done, power);
}

double fall_1_sqrt(double done, double floor) {
  return floor + (1 - floor) * (1 - std::sqrt(done));
}

double untuned_linear(double beta2, int64_t t) {
  return std::min(1.0, (1 - beta2) * static_cast<double>(t) / 2);
}

int64_t untuned_linear_updates(double beta2) {
  constexpr double kRounding = 1e-9;  // 2 / (1 - 0.999) is 2000 and a bit
  return std::max<int64_t>(1, static_cast<int64_t>(std::ceil(2 / (1 - beta2) * (1 - kRounding))));
}

double untuned_exponential(double beta2, int64_t t) {
  return -std::expm1(-(1 - beta2) * static_cast<double>(t));
}

bool has_rectification(double beta2) {
  return 2 / (1 - beta2) - 1 > 5;
}

double radam_rectification(double beta2, int64_t t) {
  const double all = 2 / (1 - beta2) - 1;
  const double power = std::pow(beta2, static_cast<double>(t));
  const double now = all - 2 * static_cast<double>(t) * power / (1 - power);
  if (now <= 5) return 0;
  return std::sqrt((now - 4) * (now - 2) * all / ((all - 4) * (all - 2) * now));
}

}  // namespace rekindle
