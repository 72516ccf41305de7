// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <vector>

#include "core/flat_layout.h"
#include "optimizers/options.h"

namespace rekindle {

// How one parameter is trained.
struct Treatment {
  double lr_factor = 1;
  double weight_decay = 0;
  bool adapts = false;  // LARS and LAMB scale its update to its norm

  bool operator==(const Treatment&) const = default;
};

// The state that a rule keeps for each parameter, by PyTorch's names.
std::vector<std::string> moment_names_of(const OptimizerOptions& options);

// By the place in the layout. Throws bad_input for a group that matches no parameter.
std::vector<Treatment> treatments(const OptimizerOptions& options, const FlatLayout& layout);

// Whether weight decay applies to a parameter (OptimizerOptions::no_decay).
bool decays(const OptimizerOptions& options, const FlatLayout::Entry& parameter);

// Whether a group freezes it.
bool is_frozen(const OptimizerOptions& options, const std::string& parameter);

// The layer that each parameter belongs to, counted from the input: what stands under one module, or under
// one element of a list of modules ("layers.3"), is a layer, in the order in which they are registered.
std::vector<int> layers_of(const FlatLayout& layout);

}  // namespace rekindle
