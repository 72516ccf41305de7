// SPDX-License-Identifier: Apache-2.0
#include "models/model.h"

#include <ATen/ops/cross_entropy_loss.h>

namespace rekindle {

at::Tensor Model::loss(const Batch& batch) {
  return at::cross_entropy_loss(forward(batch), batch.y);
}

}  // namespace rekindle
