// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "core/units.h"

namespace rekindle {

// `[checkpoint]`
struct CheckpointOptions {
  Length every{1, Unit::kEpochs};
  int keep = 3;        // generations; two stay at least
  bool verify = true;  // read back from the disk before publishing
};

}  // namespace rekindle
