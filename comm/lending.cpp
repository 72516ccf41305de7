// SPDX-License-Identifier: Apache-2.0
#include "comm/lending.h"

#include <ATen/Context.h>
#include <ATen/core/LegacyTypeDispatch.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/addmm_ops.h>
#include <ATen/ops/embedding.h>
#include <ATen/ops/embedding_dense_backward.h>
#include <ATen/ops/embedding_ops.h>
#include <ATen/ops/linear_native.h>
#include <ATen/ops/matmul_native.h>
#include <ATen/ops/mm.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/library.h>

#include <array>

#include "comm/gradient_hook.h"

namespace rekindle {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::tensor_list;
using MaybeTensor = std::optional<at::Tensor>;

GradientHook* hook_of(const at::Tensor& weight) {
  if (!weight.requires_grad() || !weight.is_leaf()) return nullptr;
  return dynamic_cast<GradientHook*>(torch::autograd::impl::post_acc_grad_hooks(weight).get());
}

// Memory for the gradient of `weight`, or none. What autograd accumulates is then memory of the reducer
// itself, which it takes over as it stands; with a second use of the weight it adds both in other memory, as
// ever. Not where the gradient is to have a gradient.
at::Tensor lent_for(const at::Tensor& weight) {
  GradientHook* hook = at::GradMode::is_enabled() ? nullptr : hook_of(weight);
  return hook ? hook->lend() : at::Tensor();
}

// Below this many weights oneDNN takes longer to start than it gains.
constexpr int64_t kManyWeights = 1 << 17;

bool suits_onednn(const at::Tensor& input, const at::Tensor& weight) {
  return at::globalContext().userEnabledMkldnn() && at::globalContext().hasMKLDNN() && input.is_cpu() &&
         input.scalar_type() == at::kFloat && weight.scalar_type() == at::kFloat && input.numel() > 0 &&
         weight.numel() >= kManyWeights;
}

// input times weight's transpose, and bias. By oneDNN where that is faster, which ATen asks for float32 only
// once a compiler has rewritten the model: where batches are small against the weights it needs two thirds of
// MKL's time on AMD's processors. Below autograd.
at::Tensor product(const at::Tensor& input, const at::Tensor& weight, const MaybeTensor& bias) {
  const at::AutoDispatchBelowADInplaceOrView guard;
  if (!suits_onednn(input, weight)) return at::native::linear(input, weight, bias);
  using Scalars = c10::List<std::optional<at::Scalar>>;
  using Linear = at::Tensor(const at::Tensor&, const at::Tensor&, const MaybeTensor&, c10::string_view,
                            Scalars, std::optional<c10::string_view>);
  static const auto linear =
      c10::Dispatcher::singleton().findSchemaOrThrow("mkldnn::_linear_pointwise", "").typed<Linear>();
  return linear.call(input, weight, bias, "none", Scalars(), "");
}

class LendingLinear : public torch::autograd::Function<LendingLinear> {
 public:
  static at::Tensor forward(AutogradContext* context, const at::Tensor& input, const at::Tensor& weight,
                            const MaybeTensor& bias) {
    context->save_for_backward({input, weight});
    context->saved_data["bias"] = bias.has_value() && bias->defined();
    return product(input, weight, bias);
  }

  static tensor_list backward(AutogradContext* context, tensor_list gradients) {
    const tensor_list saved = context->get_saved_variables();
    const at::Tensor &input = saved[0], &weight = saved[1];
    const at::Tensor output = gradients[0].reshape({-1, weight.size(0)});
    tensor_list results(3);
    if (context->needs_input_grad(0)) results[0] = input_gradient(output, weight).view(input.sizes());
    if (context->needs_input_grad(1)) results[1] = weight_gradient(output, input, weight);
    if (context->saved_data["bias"].toBool() && context->needs_input_grad(2)) results[2] = output.sum(0);
    return results;
  }

 private:
  static at::Tensor input_gradient(const at::Tensor& output, const at::Tensor& weight) {
    if (at::GradMode::is_enabled() || !suits_onednn(output, weight)) return output.mm(weight);
    return product(output, weight.t(), std::nullopt);
  }

  static at::Tensor weight_gradient(const at::Tensor& output, const at::Tensor& input,
                                    const at::Tensor& weight) {
    const at::Tensor rows = input.reshape({-1, weight.size(1)});
    at::Tensor lent = lent_for(weight);
    if (!lent.defined()) return output.t().mm(rows);
    at::mm_out(lent, output.t(), rows);
    return lent;
  }
};

class LendingEmbedding : public torch::autograd::Function<LendingEmbedding> {
 public:
  static at::Tensor forward(AutogradContext* context, const at::Tensor& weight, const at::Tensor& indices,
                            int64_t padding) {
    const at::AutoDispatchBelowADInplaceOrView guard;
    context->save_for_backward({weight, indices});
    context->saved_data["padding"] = padding;
    return at::embedding(weight, indices, padding);
  }

  static tensor_list backward(AutogradContext* context, tensor_list gradients) {
    const tensor_list saved = context->get_saved_variables();
    const at::Tensor &weight = saved[0], &indices = saved[1];
    const int64_t padding = context->saved_data["padding"].toInt();
    at::Tensor lent = padding < 0 ? lent_for(weight) : at::Tensor();
    if (lent.defined()) {
      lent.zero_().index_add_(0, indices.flatten(), gradients[0].reshape({-1, weight.size(1)}));
    } else {
      lent = at::embedding_dense_backward(gradients[0], indices, weight.size(0), padding, false);
    }
    return {lent, {}, {}};
  }
};

// The weight that `factor` is the transpose of, where it has a hook: torch::nn::Linear multiplies by that.
at::Tensor weight_behind(const at::Tensor& factor) {
  if (factor.dim() != 2 || factor.numel() == 0 || !factor.is_view()) return {};
  const at::Tensor weight(factor._base());
  const bool transposed = weight.dim() == 2 && weight.storage_offset() == factor.storage_offset() &&
                          weight.sizes().equals({factor.size(1), factor.size(0)}) &&
                          weight.strides().equals({factor.stride(1), factor.stride(0)});
  return transposed && hook_of(weight) ? weight : at::Tensor();
}

at::Tensor lending_linear(const at::Tensor& input, const at::Tensor& weight, const MaybeTensor& bias) {
  return at::GradMode::is_enabled() ? LendingLinear::apply(input, weight, bias)
                                    : product(input, weight, bias);
}

// What follows stands in for ATen's functions of these names.

at::Tensor linear(const at::Tensor& input, const at::Tensor& weight, const MaybeTensor& bias) {
  const bool lends = weight.dim() == 2 && weight.numel() > 0 && hook_of(weight) != nullptr;
  return lends ? lending_linear(input, weight, bias) : at::native::linear(input, weight, bias);
}

at::Tensor matmul(const at::Tensor& input, const at::Tensor& factor) {
  const at::Tensor weight = weight_behind(factor);
  return weight.defined() ? lending_linear(input, weight, std::nullopt) : at::native::matmul(input, factor);
}

// Of a function with a derivative of its own in ATen, the one that is registered for all kinds of devices: it
// can still be reached as that of a kind that has none of its own, AutogradOther.
c10::DispatchKeySet atens_own(c10::DispatchKeySet keys) {
  return (keys & c10::after_autograd_keyset) | c10::DispatchKeySet(c10::DispatchKey::AutogradOther);
}

at::Tensor addmm(c10::DispatchKeySet keys, const at::Tensor& bias, const at::Tensor& input,
                 const at::Tensor& factor, const at::Scalar& beta, const at::Scalar& alpha) {
  const bool plain = beta.equal(1) && alpha.equal(1) && bias.dim() == 1;
  const at::Tensor weight = plain ? weight_behind(factor) : at::Tensor();
  if (weight.defined()) return lending_linear(input, weight, bias);
  return at::_ops::addmm::redispatch(atens_own(keys), bias, input, factor, beta, alpha);
}

at::Tensor embedding(c10::DispatchKeySet keys, const at::Tensor& weight, const at::Tensor& indices,
                     c10::SymInt padding, bool scale_by_frequency, bool sparse) {
  const bool plain = weight.dim() == 2 && !scale_by_frequency && !sparse && at::GradMode::is_enabled();
  if (plain && hook_of(weight)) return LendingEmbedding::apply(weight, indices, padding.expect_int());
  return at::_ops::embedding::redispatch(atens_own(keys), weight, indices, padding, scale_by_frequency,
                                         sparse);
}

}  // namespace

// For every model alike, whoever wrote it.
void lend_to_layers() {
  static const std::array<torch::Library, 2> libraries = [] {
    std::array<torch::Library, 2> made{
        torch::Library(torch::Library::IMPL, "aten", c10::DispatchKey::AutogradCPU, __FILE__, __LINE__),
        torch::Library(torch::Library::IMPL, "aten", c10::DispatchKey::AutogradCUDA, __FILE__, __LINE__)};
    for (torch::Library& library : made) {
      library.impl("linear", TORCH_FN(linear));
      library.impl("matmul", TORCH_FN(matmul));
      library.impl("addmm", TORCH_FN(addmm));
    }
    made[0].impl("embedding", TORCH_FN(embedding));  // on GPUs ATen sorts, which no order of threads changes
    return made;
  }();
}

}  // namespace rekindle
