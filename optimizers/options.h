// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "core/units.h"

namespace rekindle {

// `[[optimizer.groups]]`: parameters that are trained otherwise than the rest.
struct GroupOptions {
  std::vector<std::string> match;      // globs over parameter names; the first group that matches one has it
  double lr_factor = 1;                // of the rate
  std::optional<double> weight_decay;  // instead of that of [optimizer], for whatever of the group decays
  bool freeze = false;                 // not trained at all
  Length unfreeze_at;                  // or not before; counted from the beginning of the run

  bool operator==(const GroupOptions&) const = default;
};

// `[optimizer]`. Defaults are PyTorch's.
struct OptimizerOptions {
  std::string name = "sgd";           // sgd, adam, adamw, lars, lamb
  double momentum = 0;                // sgd; lars: 0.9 where it is not given
  bool nesterov = false;              // sgd
  double beta1 = 0.9, beta2 = 0.999;  // adam, adamw, lamb
  double eps = 1e-8;                  // adam, adamw, lamb: 1e-6 where it is not given, as the paper has it
  double trust_coefficient = 0.001;   // lars
  double weight_decay = 0;            // adamw: 0.01 where it is not given, as PyTorch has it
  double max_grad_norm = 0;           // 0: no clipping
  double max_grad_value = 0;          // of each element; 0: no clipping
  // Globs over parameter names that weight decay leaves alone, and with it LARS's and LAMB's adaptation. Not
  // given: every parameter of at most one dimension (biases, norms), which decay harms more than it helps;
  // empty: all decay.
  std::optional<std::vector<std::string>> no_decay;
  std::vector<GroupOptions> groups;
  double layer_decay = 1;  // of the rate, for each layer further from the output
  Length ema_half_life;    // of the averaged weights: after so long a weight counts half; zero: no average
};

// Whether the rule keeps Adam's averages, and so has betas and eps.
inline bool has_betas(const std::string& optimizer) {
  return optimizer == "adam" || optimizer == "adamw" || optimizer == "lamb";
}

}  // namespace rekindle
