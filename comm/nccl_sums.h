// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <ATen/core/Tensor.h>

#include <vector>

#include "comm/sum_plan.h"

namespace rekindle {

// With ATen, on whichever device the tensors are, and with the same bits on all: element by element, so that
// no result depends on how many elements there are, as that of a reduction kernel does.

// `to` becomes the sum of `sources` along `order`; sources are overwritten on the way. `to` may be one of
// them.
void sum_along(const SumOrder& order, std::vector<at::Tensor> sources, at::Tensor to);

// `squares[i]`, float64, becomes the sum of the squares of the i-th block of `values`, which is whole blocks
// of float32: halves of the block are added to each other until one value is left.
void sum_squares(const at::Tensor& values, at::Tensor squares);

}  // namespace rekindle
