// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <nlohmann/json_fwd.hpp>

#include <cstdint>
#include <optional>
#include <span>
#include <string>

#include "worker/options.h"

namespace rekindle {

// Parent and child on the same samples. `low` and `high` bound the mean paired difference, child minus
// parent, with 95 % confidence on both sides: percentiles of a bootstrap (Efron & Tibshirani 1993, chapter
// 13) with a fixed seed.
struct Comparison {
  int64_t n = 0;
  std::optional<double> parent, child, difference, low, high;
};

// `parent` may be empty: then only the child's mean is known.
Comparison compare(std::span<const double> parent, std::span<const double> child);

struct Verdict {
  std::string verdict;  // promoted, kept-parent, inconclusive
  std::string metric;
  std::string reason;
  std::string parent, child;  // checkpoint digests
  Comparison old_data, new_data;
  bool promote = false;  // what follows from it
};

// The gate. It asks for bounds, not for points: the gain on new data must be at least min_gain and the loss
// on old data at most max_forgetting with confidence; where the bounds say neither yes nor no it is
// inconclusive. Without new data the gain is asked for on the old. For the metric "loss" a fall is a gain.
Verdict decide(const VerdictOptions& options, const Comparison& old_data, const Comparison& new_data);

nlohmann::ordered_json to_json(const Verdict& verdict);

}  // namespace rekindle
