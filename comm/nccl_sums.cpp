// SPDX-License-Identifier: Apache-2.0
#include "comm/nccl_sums.h"

#include <ATen/ops/add.h>

#include <algorithm>

#include "core/flat_layout.h"

namespace rekindle {

void sum_along(const SumOrder& order, std::vector<at::Tensor> sources, at::Tensor to) {
  std::vector<at::Tensor> stack;
  for (size_t i = 0; i < order.size(); ++i) {
    if (order[i] != kAdd) {
      stack.push_back(sources[order[i]]);
      continue;
    }
    const at::Tensor right = stack.back();
    stack.pop_back();
    at::Tensor& left = stack.back();
    if (i + 1 == order.size()) {
      at::add_out(to, left, right);
      return;
    }
    left.add_(right);
  }
  if (!stack.front().is_same(to)) to.copy_(stack.front());  // one source alone
}

void sum_squares(const at::Tensor& values, at::Tensor squares) {
  constexpr int64_t kMostBlocks = 1024;  // at a time: 32 MiB of float64
  const int64_t blocks = values.numel() / kBlock;
  for (int64_t first = 0; first < blocks; first += kMostBlocks) {
    const int64_t count = std::min(kMostBlocks, blocks - first);
    at::Tensor sums = values.narrow(0, first * kBlock, count * kBlock).view({count, kBlock}).to(at::kDouble);
    sums.mul_(sums);
    for (int64_t half = kBlock / 2; half > 0; half /= 2) {
      sums.narrow(1, 0, half).add_(sums.narrow(1, half, half));
    }
    squares.narrow(0, first, count).copy_(sums.select(1, 0));
  }
}

}  // namespace rekindle
