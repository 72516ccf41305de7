// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include "core/units.h"

namespace rekindle {

// `[checkpoint]`
struct CheckpointOptions {
  Length every{1, Unit::kEpochs};
  int keep = 3;  // newest generations; two stay at least
  Length keep_every{
      0, Unit::kSamples};  // of each stretch this long the first generation stays for good; 0: none
  int64_t keep_steps = 0;  // the same in steps, which whoever knows the data works out
  bool verify = true;      // read back from the disk before publishing
  bool gather = false;     // by rank 0 alone, for ranks that share no file system
  bool background = true;  // written from a copy in memory, while the training goes on
};

}  // namespace rekindle
