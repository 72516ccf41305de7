// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <vector>

#include "comm/communicator.h"
#include "comm/flat_parameters.h"
#include "optimizers/optimizer.h"

namespace rekindle {

// Collective, after Optimizer::start_step(): each rank updates what it owns of the parameters, and then all
// have all of them. `buckets` are the reducer's, whose slices the optimizer was made for.
void update_together(Communicator& communicator, const FlatParameters& parameters,
                     const std::vector<Range>& buckets, Optimizer& optimizer);

}  // namespace rekindle
