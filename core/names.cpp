// SPDX-License-Identifier: Apache-2.0
#include "core/names.h"

#include <charconv>
#include <cstdio>

namespace rekindle::names {
namespace {

constexpr std::string_view kStepPrefix = "step-";

std::string padded(int64_t number, int digits) {
  char text[32];
  std::snprintf(text, sizeof text, "%0*lld", digits, static_cast<long long>(number));
  return text;
}

}  // namespace

std::string log_of(int rank) {
  return "rank-" + std::to_string(rank) + ".log";
}

std::string step(int64_t step) {
  return std::string(kStepPrefix) + padded(step, 9);
}

std::string step_temporary(int64_t step, const std::string& attempt) {
  return "." + names::step(step) + ".tmp-" + attempt;
}

std::string step_aside(int64_t step, const std::string& attempt) {
  return "." + names::step(step) + ".aside-" + attempt;
}

std::string optimizer_part(int part, int parts) {
  return "optimizer-" + padded(part + 1, 5) + "-of-" + padded(parts, 5) + ".safetensors";
}

int64_t step_in(const std::string& name) {
  if (!name.starts_with(kStepPrefix)) return -1;
  int64_t number = -1;
  std::from_chars(name.data() + kStepPrefix.size(), name.data() + name.size(), number);
  return number >= 0 && step(number) == name ? number : -1;  // only what step() makes: no "step-7", no tail
}

}  // namespace rekindle::names
