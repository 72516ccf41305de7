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

// What is kept beside a rule's own moments where weights are averaged: those that the parameters do not hold.
inline constexpr char kOtherWeights[] = "other_weights";

// By the place in the layout.
std::vector<Treatment> treatments(const OptimizerOptions& options, const FlatLayout& layout);

// Whether weight decay applies to a parameter (OptimizerOptions::no_decay).
bool decays(const OptimizerOptions& options, const FlatLayout::Entry& parameter);

// The first group that matches a parameter; null where none does.
const GroupOptions* group_of(const OptimizerOptions& options, const std::string& parameter);

// Throws bad_input for a group that none of these parameters belongs to, and for no_decay that spares none.
void check_groups(const OptimizerOptions& options, const std::vector<std::string>& parameters);

// The layer that each parameter belongs to, counted from the input among those that are trained: what stands
// under one module, or under one element of a list of modules ("layers.3"), is a layer, in the order in which
// they are registered. A list of vectors alone ("norms") is part of the list beside it.
std::vector<int> layers_of(const FlatLayout& layout);

}  // namespace rekindle
