// SPDX-License-Identifier: Apache-2.0
#include "warmstart/named_state.h"

#include "core/digest.h"
#include "core/error.h"

namespace rekindle {
namespace {

using safetensors::DType;

template <typename Visit>
void for_each(const NamedState& state, const Visit& visit) {
  for (const auto* part : {&state.parameters, &state.frozen, &state.buffers}) {
    for (const auto& [name, tensor] : *part) visit(name, tensor);
  }
}

std::span<const std::byte> bytes_of(const at::Tensor& tensor) {
  return {static_cast<const std::byte*>(tensor.const_data_ptr()), tensor.nbytes()};
}

}  // namespace

DType dtype_of(const at::Tensor& tensor) {
  switch (tensor.scalar_type()) {
    case at::kBool:
      return DType::kBool;
    case at::kByte:
      return DType::kU8;
    case at::kChar:
      return DType::kI8;
    case at::kShort:
      return DType::kI16;
    case at::kInt:
      return DType::kI32;
    case at::kLong:
      return DType::kI64;
    case at::kHalf:
      return DType::kF16;
    case at::kBFloat16:
      return DType::kBF16;
    case at::kFloat:
      return DType::kF32;
    case at::kDouble:
      return DType::kF64;
    default:
      throw Error(std::string("a tensor of type ") + at::toString(tensor.scalar_type()) + " cannot be saved");
  }
}

std::span<std::byte> bytes_of(at::Tensor& tensor) {
  return {static_cast<std::byte*>(tensor.mutable_data_ptr()), tensor.nbytes()};
}

std::vector<safetensors::TensorView> views_of(const NamedState& state) {
  std::vector<safetensors::TensorView> views;
  for_each(state, [&](const std::string& name, const at::Tensor& tensor) {
    if (!tensor.is_contiguous()) throw Error("tensor '" + name + "' is not contiguous");
    views.push_back({name, dtype_of(tensor), tensor.sizes().vec(), bytes_of(tensor)});
  });
  return views;
}

NamedState on_host(const NamedState& state) {
  NamedState host;
  const auto copy = [](const NamedState::Tensors& from, NamedState::Tensors& to) {
    for (const auto& [name, tensor] : from) to.emplace_back(name, tensor.detach().to(at::kCPU));
  };
  copy(state.parameters, host.parameters);
  copy(state.frozen, host.frozen);
  copy(state.buffers, host.buffers);
  return host;
}

std::string digest_of(const NamedState& state) {
  Digest digest;
  for_each(state, [&](const std::string& name, const at::Tensor& tensor) {
    const at::Tensor here = tensor.detach().to(at::kCPU);
    digest.update(name).update(bytes_of(here));
  });
  return digest.hex();
}

}  // namespace rekindle
