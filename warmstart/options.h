// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>

namespace rekindle {

enum class Strategy { kCold, kWarm };

// `[warm_start]`
struct WarmStartOptions {
  std::string from;                     // "promoted" of the line, or a path; empty: no parent at all
  Strategy strategy = Strategy::kWarm;  // cold: the parent is only what the child is compared with
  double min_loaded = 0.95;             // share of the parameters that must come from the parent
};

}  // namespace rekindle
