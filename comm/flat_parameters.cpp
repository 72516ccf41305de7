// SPDX-License-Identifier: Apache-2.0
#include "comm/flat_parameters.h"

#include <torch/csrc/autograd/variable.h>

#include "core/error.h"

namespace rekindle {

void check_trainable(const FlatParameters::Named& parameters) {
  for (const auto& [name, parameter] : parameters) {
    if (parameter.scalar_type() == at::kFloat) continue;
    throw bad_input("parameter '" + name + "' is " + at::toString(parameter.scalar_type()), "",
                    "this version trains float32 parameters");
  }
}

FlatParameters::FlatParameters(Communicator& communicator, Named parameters)
    : parameters_(std::move(parameters)) {
  for (const auto& [name, parameter] : parameters_) layout_.append(name, parameter.sizes().vec());
  flat_ = communicator.allocate_shared(layout_.size(), at::kFloat);
  for (size_t i = 0; i < parameters_.size(); ++i) {
    const Range range = layout_.entries()[i].range;
    at::Tensor& parameter = parameters_[i].second;
    const at::Tensor view = flat_.narrow(0, range.begin, range.size()).view(parameter.sizes());
    if (communicator.fills_shared()) view.copy_(parameter.detach());
    parameter.set_data(view);
  }
  communicator.broadcast(flat_, 0, "initial parameters");
}

}  // namespace rekindle
