// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <torch/csrc/autograd/function_hook.h>
#include <torch/csrc/autograd/variable.h>

#include "comm/gradient_reducer.h"

namespace rekindle {

// Sits on a parameter. Runs on the thread that called backward, right after its gradient was accumulated.
class GradientHook : public torch::autograd::PostAccumulateGradHook {
 public:
  GradientHook(GradientReducer& reducer, size_t parameter) : reducer_(reducer), parameter_(parameter) {}

  void operator()(const torch::autograd::Variable& variable) override {
    at::Tensor& gradient = variable.mutable_grad();
    reducer_.add(parameter_, gradient);
    // Undefined again, so that the next backward hands its tensor over instead of adding into this one.
    gradient.reset();
  }

  at::Tensor lend() { return reducer_.lend(parameter_); }

 private:
  GradientReducer& reducer_;
  size_t parameter_;
};

}  // namespace rekindle
