// SPDX-License-Identifier: Apache-2.0
#include "data/split.h"

#include <cmath>

#include "core/digest.h"
#include "core/error.h"

namespace rekindle {

double split_key(const Dataset& data, int64_t index) {
  constexpr int kMantissa = 53;  // more bits would round up to 1
  return std::ldexp(static_cast<double>(hash64(data.sample(index)) >> (64 - kMantissa)), -kMantissa);
}

Split split(const Dataset& data, const SplitOptions& options) {
  if (options.by != SplitBy::kKey) {
    throw bad_input("a split by time is not in this version", "", "evaluation.split_by = \"key\"");
  }
  // Written so that NaN is refused too.
  if (!(options.test >= 0 && options.validation >= 0 && options.test + options.validation < 1)) {
    throw bad_input("evaluation.test and evaluation.validation are shares and leave nothing for training", "",
                    "both are at least 0, and below 1 together");
  }
  Split split;
  for (int64_t index = 0; index < data.size(); ++index) {
    const double key = split_key(data, index);
    if (key < options.test) {
      split.test.push_back(index);
    } else if (key >= 1 - options.validation) {
      split.validation.push_back(index);
    } else {
      split.train.push_back(index);
    }
  }
  return split;
}

}  // namespace rekindle
