// SPDX-License-Identifier: Apache-2.0
#include "warmstart/named_state.h"

#include <algorithm>
#include <array>

#include "core/digest.h"
#include "core/error.h"

namespace rekindle {
namespace {

using safetensors::DType;

struct TypeRow {
  at::ScalarType torch;
  DType file;
};

constexpr std::array<TypeRow, 20> kTypes{{{at::kBool, DType::kBool},
                                          {at::kFloat4_e2m1fn_x2, DType::kF4},
                                          {at::kByte, DType::kU8},
                                          {at::kChar, DType::kI8},
                                          {at::kFloat8_e5m2, DType::kF8E5M2},
                                          {at::kFloat8_e4m3fn, DType::kF8E4M3},
                                          {at::kFloat8_e8m0fnu, DType::kF8E8M0},
                                          {at::kFloat8_e4m3fnuz, DType::kF8E4M3FNUZ},
                                          {at::kFloat8_e5m2fnuz, DType::kF8E5M2FNUZ},
                                          {at::kShort, DType::kI16},
                                          {at::kUInt16, DType::kU16},
                                          {at::kHalf, DType::kF16},
                                          {at::kBFloat16, DType::kBF16},
                                          {at::kInt, DType::kI32},
                                          {at::kUInt32, DType::kU32},
                                          {at::kFloat, DType::kF32},
                                          {at::kComplexFloat, DType::kC64},
                                          {at::kDouble, DType::kF64},
                                          {at::kLong, DType::kI64},
                                          {at::kUInt64, DType::kU64}}};

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
  const auto row = std::ranges::find(kTypes, tensor.scalar_type(), &TypeRow::torch);
  if (row == kTypes.end()) {
    throw Error(std::string("a tensor of type ") + at::toString(tensor.scalar_type()) + " cannot be saved");
  }
  return row->file;
}

at::ScalarType type_of(DType dtype) {
  return std::ranges::find(kTypes, dtype, &TypeRow::file)->torch;
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
