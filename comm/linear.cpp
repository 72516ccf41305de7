// SPDX-License-Identifier: Apache-2.0
#include "comm/linear.h"

#include <ATen/core/LegacyTypeDispatch.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/linear_native.h>
#include <ATen/ops/mm.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/library.h>

#include <array>

#include "comm/gradient_hook.h"

namespace rekindle {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::tensor_list;

GradientHook* hook_of(const at::Tensor& weight) {
  if (!weight.requires_grad() || !weight.is_leaf()) return nullptr;
  return dynamic_cast<GradientHook*>(torch::autograd::impl::post_acc_grad_hooks(weight).get());
}

// ATen's linear layer, but for where backward puts the weight's gradient. What autograd accumulates is then
// memory of the reducer itself, which autograd takes over as it stands; with a second use of the weight it
// adds both in other memory, as ever.
class LendingLinear : public torch::autograd::Function<LendingLinear> {
 public:
  static at::Tensor forward(AutogradContext* context, const at::Tensor& input, const at::Tensor& weight,
                            const std::optional<at::Tensor>& bias) {
    const at::AutoDispatchBelowADInplaceOrView guard;
    context->save_for_backward({input, weight});
    context->saved_data["bias"] = bias.has_value();
    return at::native::linear(input, weight, bias);
  }

  static tensor_list backward(AutogradContext* context, tensor_list gradients) {
    const tensor_list saved = context->get_saved_variables();
    const at::Tensor &input = saved[0], &weight = saved[1];
    const at::Tensor output = gradients[0].reshape({-1, weight.size(0)});
    tensor_list results(3);
    if (context->needs_input_grad(0)) results[0] = output.mm(weight).view(input.sizes());
    if (context->needs_input_grad(1)) results[1] = weight_gradient(output, input, weight);
    if (context->saved_data["bias"].toBool() && context->needs_input_grad(2)) results[2] = output.sum(0);
    return results;
  }

 private:
  static at::Tensor weight_gradient(const at::Tensor& output, const at::Tensor& input,
                                    const at::Tensor& weight) {
    const at::Tensor rows = input.reshape({-1, weight.size(1)});
    GradientHook* hook = at::GradMode::is_enabled() ? nullptr : hook_of(weight);
    at::Tensor lent = hook ? hook->lend() : at::Tensor();
    if (!lent.defined()) return output.t().mm(rows);
    at::mm_out(lent, output.t(), rows);
    return lent;
  }
};

at::Tensor linear(const at::Tensor& input, const at::Tensor& weight, const std::optional<at::Tensor>& bias) {
  const bool plain = weight.dim() != 2 || weight.numel() == 0;
  if (plain || !at::GradMode::is_enabled() || hook_of(weight) == nullptr)
    return at::native::linear(input, weight, bias);
  return LendingLinear::apply(input, weight, bias);
}

}  // namespace

// For every model alike, whoever wrote it: at::linear itself is what torch::nn::Linear calls.
void lend_to_linear_layers() {
  static const std::array<torch::Library, 2> libraries = [] {
    std::array<torch::Library, 2> made{
        torch::Library(torch::Library::IMPL, "aten", c10::DispatchKey::AutogradCPU, __FILE__, __LINE__),
        torch::Library(torch::Library::IMPL, "aten", c10::DispatchKey::AutogradCUDA, __FILE__, __LINE__)};
    for (torch::Library& library : made) library.impl("linear", linear);
    return made;
  }();
}

}  // namespace rekindle
