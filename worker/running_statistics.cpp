// SPDX-License-Identifier: Apache-2.0
#include "worker/running_statistics.h"

#include <ATen/ops/cat.h>

namespace rekindle {
namespace {

at::Tensor flatten(const std::vector<at::Tensor>& tensors, at::ScalarType dtype) {
  std::vector<at::Tensor> flat;
  for (const at::Tensor& tensor : tensors) flat.push_back(tensor.reshape(-1).to(dtype));
  return at::cat(flat);
}

void scatter(const at::Tensor& flat, std::vector<at::Tensor>& tensors) {
  int64_t at = 0;
  for (at::Tensor& tensor : tensors) {
    tensor.copy_(flat.narrow(0, at, tensor.numel()).view(tensor.sizes()));
    at += tensor.numel();
  }
}

}  // namespace

RunningStatistics::RunningStatistics(Communicator& communicator, const NamedState& state)
    : communicator_(communicator) {
  for (const auto& [name, buffer] : state.buffers) {
    (buffer.is_floating_point() ? values_ : counts_).push_back(buffer.detach());
  }
  if (!values_.empty()) agreed_ = flatten(values_, at::kDouble);
}

void RunningStatistics::agree() {
  if (!values_.empty()) {
    // The mean change, not the mean: what no rank has changed stays as it is, to the bit.
    change_ = flatten(values_, at::kDouble).sub_(agreed_);
    communicator_.all_reduce(change_, Communicator::Op::kSum, "running statistics");
    scatter(agreed_.add_(change_.div_(communicator_.world())), values_);
    agreed_ = flatten(values_, at::kDouble);  // as the buffers hold it, which a resumed run starts from
  }
  if (!counts_.empty()) {
    most_ = flatten(counts_, at::kLong);
    communicator_.all_reduce(most_, Communicator::Op::kMax, "running counts");
    scatter(most_, counts_);
  }
}

}  // namespace rekindle
