// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <ATen/core/Tensor.h>

#include <memory>

namespace rekindle {

// Memory for batches, used again once no tensor holds it. Where each step allocates its batch anew, the page
// faults of some hundred kilobytes cost more than filling them.
class BatchMemory {
 public:
  BatchMemory();

  // An uninitialised float32 tensor. For any thread; the tensor may outlive this object.
  at::Tensor floats(at::IntArrayRef sizes);

 private:
  class Shelf;  // kept by each tensor as well, which comes back to it
  std::shared_ptr<Shelf> shelf_;
};

}  // namespace rekindle
