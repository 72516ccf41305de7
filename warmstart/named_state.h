// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <ATen/core/Tensor.h>

#include <string>
#include <utility>
#include <vector>

#include "core/safetensors.h"

namespace rekindle {

// The tensors of a model by name, sharing its memory: what model.safetensors holds.
struct NamedState {
  using Tensors = std::vector<std::pair<std::string, at::Tensor>>;
  Tensors parameters;  // that are trained
  Tensors frozen;      // that ask for no gradient
  Tensors buffers;
};

// As safetensors takes it. The tensors must be contiguous and of the CPU, and live as long as the views.
std::vector<safetensors::TensorView> views_of(const NamedState& state);

safetensors::DType dtype_of(const at::Tensor& tensor);  // throws Error for a type that the format lacks
at::ScalarType type_of(safetensors::DType dtype);
std::span<std::byte> bytes_of(at::Tensor& tensor);

// The same tensors in memory of the CPU: copies of those that lie on a GPU.
NamedState on_host(const NamedState& state);

// XXH3-128 over names and bytes.
std::string digest_of(const NamedState& state);

}  // namespace rekindle
