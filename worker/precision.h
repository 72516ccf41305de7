// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <c10/core/Device.h>

#include "checkpoints/train_state.h"
#include "worker/options.h"

namespace rekindle {

// While it lives, this thread computes in `precision` what PyTorch's autocast takes to be safe there. One
// forward pass at a time: the copies of the weights that it makes are gone with it, for weights change.
class Autocast {
 public:
  Autocast(Precision precision, c10::Device device);
  ~Autocast();
  Autocast(const Autocast&) = delete;
  Autocast& operator=(const Autocast&) = delete;

 private:
  const Precision precision_;
  const c10::Device device_;
};

// After a step whose gradients were finite, or were not: as PyTorch's GradScaler, twice as much after 2000
// good steps, half of it after one that overflowed. All are powers of two, so nothing is rounded.
void adjust(LossScale& scale, bool finite);

}  // namespace rekindle
