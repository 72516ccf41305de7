// SPDX-License-Identifier: Apache-2.0
#include "worker/running_statistics.h"

#include <ATen/ops/cat.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <string>

namespace rekindle {
namespace {

bool is_running_statistic(const std::string& name) {
  const std::string last = name.substr(name.rfind('.') + 1);
  return last == "running_mean" || last == "running_var" || last == "num_batches_tracked";
}

}  // namespace

RunningStatistics::RunningStatistics(const NamedState& state) {
  for (const auto& [name, buffer] : state.buffers) {
    if (!is_running_statistic(name)) continue;
    (buffer.is_floating_point() ? values_ : counts_).push_back(buffer.detach());
  }
  for (const at::Tensor& value : values_) values_size_ += value.numel();
  agreed_ = current();
}

at::Tensor RunningStatistics::current() const {
  std::vector<at::Tensor> flat{at::zeros({0}, at::kDouble)};
  for (const auto* tensors : {&values_, &counts_}) {
    for (const at::Tensor& tensor : *tensors) flat.push_back(tensor.reshape(-1).to(at::kCPU, at::kDouble));
  }
  return at::cat(flat);
}

void RunningStatistics::reset() {
  int64_t at = 0;
  for (auto* tensors : {&values_, &counts_}) {
    for (at::Tensor& tensor : *tensors) {
      tensor.copy_(agreed_.narrow(0, at, tensor.numel()).view(tensor.sizes()));
      at += tensor.numel();
    }
  }
}

void RunningStatistics::add_change(double weight, std::span<double> change) const {
  if (size() == 0) return;
  const at::Tensor now = current();
  const double *after = now.const_data_ptr<double>(), *before = agreed_.const_data_ptr<double>();
  for (int64_t i = 0; i < size(); ++i) {
    const double moved = after[i] - before[i];  // what nobody changed stays as it is, to the bit
    change[i] = i < values_size_ ? change[i] + moved * weight : std::max(change[i], moved);
  }
}

void RunningStatistics::apply(std::span<const double> sums,
                              const std::vector<std::span<const double>>& rows) {
  if (size() == 0) return;
  double* agreed = agreed_.mutable_data_ptr<double>();
  for (int64_t i = 0; i < values_size_; ++i) agreed[i] += sums[i];
  for (int64_t i = values_size_; i < size(); ++i) {
    double most = 0;
    for (const auto& row : rows) most = std::max(most, row[i]);
    agreed[i] += most;
  }
  reset();
  agreed_ = current();  // as the buffers hold it, which a resumed run starts from
}

}  // namespace rekindle
