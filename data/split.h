// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <vector>

#include "data/dataset.h"
#include "data/options.h"

namespace rekindle {

// Which samples serve for what: indices into the data set, ascending, each in exactly one list.
struct Split {
  std::vector<int64_t> train, validation, test;
};

// Where a sample falls in [0, 1): a hash of the bytes of its x. Test samples are those below the share
// `test`, validation samples those from 1 - `validation` on, so a share that is changed moves only samples at
// its own bound, and what is held out by a smaller share is held out by a larger one.
double split_key(const Dataset& data, int64_t index);

// Throws bad_input for shares that are negative or leave nothing between them, and for a split by time.
Split split(const Dataset& data, const SplitOptions& options);

}  // namespace rekindle
