// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <optional>
#include <string>
#include <vector>

namespace rekindle {

// `[optimizer]`. Defaults are PyTorch's.
struct OptimizerOptions {
  std::string name = "sgd";           // sgd, adamw
  double momentum = 0;                // sgd
  bool nesterov = false;              // sgd
  double beta1 = 0.9, beta2 = 0.999;  // adamw
  double eps = 1e-8;                  // adamw
  double weight_decay = 0;            // adamw: 0.01 where it is not given, as PyTorch has it
  double max_grad_norm = 0;           // 0: no clipping
  // Globs over parameter names that weight decay leaves alone. Not given: every parameter of at most one
  // dimension (biases, norms), which decay harms more than it helps; empty: all decay.
  std::optional<std::vector<std::string>> no_decay;
};

}  // namespace rekindle
