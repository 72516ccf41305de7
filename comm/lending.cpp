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
#include <torch/csrc/autograd/graph_task.h>
#include <torch/library.h>

#include <array>
#include <vector>

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

bool has_hooks_of_others(const at::Tensor& tensor) {
  return !torch::autograd::impl::hooks(tensor).empty() || tensor.retains_grad();
}

// Where backward of a layer finds the memory for its weight's gradient. The hook and not the weight, for a
// weight that is saved may not change until then. The weight's node in the graph keeps the hook alive.
void save_hook(AutogradContext* context, const at::Tensor& weight) {
  // Who asks to see gradients may keep them, and this memory changes with the next pass.
  GradientHook* hook = has_hooks_of_others(weight) ? nullptr : hook_of(weight);
  context->saved_data["hook"] = reinterpret_cast<int64_t>(hook);
}

// Memory for that gradient, or none. What autograd accumulates is then memory of the reducer itself, which it
// takes over as it stands; with a second use of the weight it adds both in other memory, as ever. Not where
// the gradient is to have a gradient, nor where it goes to a caller (torch::autograd::grad).
at::Tensor lent(AutogradContext* context) {
  auto* hook = reinterpret_cast<GradientHook*>(context->saved_data["hook"].toInt());
  const auto* wanted = torch::autograd::get_current_graph_task_exec_info();
  const bool accumulates = wanted == nullptr || wanted->empty();
  return hook && accumulates && !at::GradMode::is_enabled() ? hook->lend() : at::Tensor();
}

// Below this many weights oneDNN takes longer to start than it gains.
constexpr int64_t kManyWeights = 1 << 17;

bool is_plain(const at::Tensor& tensor) {
  return tensor.is_cpu() && tensor.layout() == at::kStrided && tensor.scalar_type() == at::kFloat;
}

bool suits_onednn(const at::Tensor& input, const at::Tensor& weight) {
  return at::globalContext().userEnabledMkldnn() && at::globalContext().hasMKLDNN() && is_plain(input) &&
         is_plain(weight) && input.numel() > 0 && weight.numel() >= kManyWeights;
}

// input times weight's transpose, and bias; large ones by oneDNN, which ATen asks for float32 only once a
// compiler has rewritten the model. On AMD's processors it needs two thirds of MKL's time where batches are
// small against the weights, and nowhere more. Below autograd.
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
    // As ATen: where the input needs no gradient, the weight may change before backward.
    context->save_for_backward({input, input.requires_grad() ? weight : at::Tensor()});
    context->saved_data["features"] = weight.sizes().vec();
    context->saved_data["bias"] = bias.has_value() && bias->defined();
    save_hook(context, weight);
    return product(input, weight, bias);
  }

  static tensor_list backward(AutogradContext* context, tensor_list gradients) {
    const tensor_list saved = context->get_saved_variables();
    const at::Tensor &input = saved[0], &weight = saved[1];
    const std::vector<int64_t> features = context->saved_data["features"].toIntVector();
    const at::Tensor output = gradients[0].reshape({-1, features[0]});
    tensor_list results(3);
    if (context->needs_input_grad(0)) results[0] = input_gradient(output, weight).view(input.sizes());
    if (context->needs_input_grad(1)) {
      results[1] = weight_gradient(output, input.reshape({-1, features[1]}), lent(context));
    }
    if (context->saved_data["bias"].toBool() && context->needs_input_grad(2)) results[2] = output.sum(0);
    return results;
  }

 private:
  static at::Tensor input_gradient(const at::Tensor& output, const at::Tensor& weight) {
    if (at::GradMode::is_enabled() || !suits_onednn(output, weight)) return output.mm(weight);
    return product(output, weight.t(), std::nullopt);
  }

  static at::Tensor weight_gradient(const at::Tensor& output, const at::Tensor& input, at::Tensor into) {
    if (!into.defined()) return output.t().mm(input);
    at::mm_out(into, output.t(), input);
    return into;
  }
};

class LendingEmbedding : public torch::autograd::Function<LendingEmbedding> {
 public:
  static at::Tensor forward(AutogradContext* context, const at::Tensor& weight, const at::Tensor& indices) {
    const at::AutoDispatchBelowADInplaceOrView guard;
    context->save_for_backward({indices});
    context->saved_data["rows"] = weight.size(0);
    save_hook(context, weight);
    return at::embedding(weight, indices);
  }

  static tensor_list backward(AutogradContext* context, tensor_list gradients) {
    const at::Tensor indices = context->get_saved_variables()[0];
    const at::Tensor& output = gradients[0];
    at::Tensor weight = lent(context);
    if (weight.defined()) {
      weight.zero_().index_add_(0, indices.flatten(), output.reshape({-1, weight.size(1)}));
    } else {
      const int64_t rows = context->saved_data["rows"].toInt();
      weight = at::embedding_dense_backward(output, indices, rows, /*padding_idx=*/-1, false);
    }
    return {weight, {}};
  }
};

// The weight that `factor` is the transpose of: torch::nn::Linear multiplies by that. None where the view is
// more than a way to write the product: where gradients end at it, or somebody wants its own.
at::Tensor weight_behind(const at::Tensor& factor) {
  if (factor.dim() != 2 || factor.numel() == 0 || !factor.is_view()) return {};
  // A view that was made without gradients says that it requires them, as what it is a view of does.
  if (at::GradMode::is_enabled() && (factor.grad_fn() == nullptr || has_hooks_of_others(factor))) return {};
  const at::Tensor weight(factor._base());
  const bool transposed = weight.dim() == 2 && weight.storage_offset() == factor.storage_offset() &&
                          weight.sizes().equals({factor.size(1), factor.size(0)}) &&
                          weight.strides().equals({factor.stride(1), factor.stride(0)});
  return transposed ? weight : at::Tensor();
}

// The layer of these, or nothing where it is ATen's to compute. Without gradients only the shapes decide, so
// that a parent and its child, of which one is trained here, are measured alike.
MaybeTensor lending_linear(const at::Tensor& input, const at::Tensor& weight, const MaybeTensor& bias) {
  if (!weight.defined() || weight.dim() != 2 || weight.numel() == 0) return std::nullopt;
  const bool usual_bias = !bias || !bias->defined() || bias->sizes().equals({weight.size(0)});
  if (!usual_bias || input.layout() != at::kStrided) return std::nullopt;
  if (at::GradMode::is_enabled()) {
    if (hook_of(weight)) return LendingLinear::apply(input, weight, bias);
  } else if (suits_onednn(input, weight)) {
    return product(input, weight, bias);
  }
  return std::nullopt;
}

// What follows stands in for ATen's functions of these names.

at::Tensor linear(const at::Tensor& input, const at::Tensor& weight, const MaybeTensor& bias) {
  if (const MaybeTensor output = lending_linear(input, weight, bias)) return *output;
  return at::native::linear(input, weight, bias);
}

at::Tensor matmul(const at::Tensor& input, const at::Tensor& factor) {
  if (const MaybeTensor output = lending_linear(input, weight_behind(factor), std::nullopt)) return *output;
  return at::native::matmul(input, factor);
}

// Of a function with a derivative of its own in ATen, the one that is registered for all kinds of devices: it
// can still be reached as that of a kind that has none of its own, AutogradOther.
c10::DispatchKeySet atens_own(c10::DispatchKeySet keys) {
  return (keys & c10::after_autograd_keyset) | c10::DispatchKeySet(c10::DispatchKey::AutogradOther);
}

at::Tensor addmm(c10::DispatchKeySet keys, const at::Tensor& bias, const at::Tensor& input,
                 const at::Tensor& factor, const at::Scalar& beta, const at::Scalar& alpha) {
  if (beta.equal(1) && alpha.equal(1)) {
    if (const MaybeTensor output = lending_linear(input, weight_behind(factor), bias)) return *output;
  }
  return at::_ops::addmm::redispatch(atens_own(keys), bias, input, factor, beta, alpha);
}

at::Tensor embedding(c10::DispatchKeySet keys, const at::Tensor& weight, const at::Tensor& indices,
                     c10::SymInt padding, bool scale_by_frequency, bool sparse) {
  const bool plain = weight.dim() == 2 && weight.numel() > 0 && padding < 0 && !scale_by_frequency && !sparse;
  if (plain && at::GradMode::is_enabled() && hook_of(weight)) return LendingEmbedding::apply(weight, indices);
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
