// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <ATen/core/Tensor.h>

#include <string>
#include <utility>
#include <vector>

#include "comm/communicator.h"
#include "core/flat_layout.h"

namespace rekindle {

// The parameters of a model as one line of memory that the communicator allocated: afterwards each parameter
// is a view into it. All must be float32. On a node that shares memory there is one physical copy for all its
// ranks.
class FlatParameters {
 public:
  using Named = std::vector<std::pair<std::string, at::Tensor>>;

  // Collective. Every rank gets rank 0's values. check_trainable() must not throw for them.
  FlatParameters(Communicator& communicator, Named parameters);
  FlatParameters(const FlatParameters&) = delete;
  FlatParameters& operator=(const FlatParameters&) = delete;

  const FlatLayout& layout() const { return layout_; }
  const Named& parameters() const { return parameters_; }
  const at::Tensor& flat() const { return flat_; }  // [layout().size()]

 private:
  FlatLayout layout_;
  Named parameters_;
  at::Tensor flat_;
};

// Throws bad_input for parameters that are not float32.
void check_trainable(const FlatParameters::Named& parameters);

}  // namespace rekindle
