// SPDX-License-Identifier: Apache-2.0
#include "optimizers/groups.h"

#include <algorithm>
#include <cctype>
#include <cmath>
#include <map>
#include <set>
#include <sstream>

#include "core/error.h"
#include "core/text.h"

namespace rekindle {
namespace {

bool is_number(const std::string& part) {
  return std::ranges::all_of(part, [](unsigned char c) { return std::isdigit(c); });
}

// "encoder.3" of "encoder.layer.3.output.weight"; "embeddings" of "embeddings.weight". Lists beside each
// other have their layers in common ("layers.1" and "norms.1"), but not those that are numbered themselves
// ("layer1.0" and "layer2.0").
std::string layer_name(const std::string& parameter) {
  std::istringstream parts(parameter);
  std::string layer, before, part;
  while (std::getline(parts, part, '.')) {
    if (parts.eof()) return layer + before;  // `part` is the parameter's own name
    if (is_number(part)) {
      const bool numbered = !before.empty() && std::isdigit(static_cast<unsigned char>(before.back()));
      return layer + (numbered ? before : "") + "." + part;
    }
    layer += before;
    before = "." + part;
  }
  return layer;
}

}  // namespace

std::vector<std::string> moment_names_of(const OptimizerOptions& options) {
  if (has_betas(options.name)) return {"exp_avg", "exp_avg_sq"};
  if (options.name == "lars") return {"velocity"};  // PyTorch has none; it is no gradient, as SGD's buffer is
  if (options.momentum != 0) return {"momentum_buffer"};
  return {};
}

bool decays(const OptimizerOptions& options, const FlatLayout::Entry& parameter) {
  if (!options.no_decay) return parameter.shape.size() > 1;
  return std::none_of(options.no_decay->begin(), options.no_decay->end(),
                      [&](const std::string& pattern) { return matches_glob(pattern, parameter.name); });
}

const GroupOptions* group_of(const OptimizerOptions& options, const std::string& parameter) {
  const auto has = [&](const GroupOptions& group) {
    return std::ranges::any_of(group.match,
                               [&](const std::string& glob) { return matches_glob(glob, parameter); });
  };
  const auto group = std::ranges::find_if(options.groups, has);
  return group == options.groups.end() ? nullptr : &*group;
}

void check_groups(const OptimizerOptions& options, const std::vector<std::string>& parameters) {
  std::set<const GroupOptions*> used;
  for (const std::string& parameter : parameters) used.insert(group_of(options, parameter));
  for (const GroupOptions& group : options.groups) {
    if (used.contains(&group)) continue;
    throw bad_input(
        "the group of '" + group.match.front() + "' has no parameter", "optimizer.groups",
        "no name matches that a group before it has not taken; `rekindle inspect` of a checkpoint "
        "lists the names");
  }
}

std::vector<int> layers_of(const FlatLayout& layout) {
  std::map<std::string, int> numbers;
  std::vector<int> layers;
  for (const FlatLayout::Entry& entry : layout.entries()) {
    const auto [known, is_new] =
        numbers.try_emplace(layer_name(entry.name), static_cast<int>(numbers.size()));
    layers.push_back(known->second);
  }
  return layers;
}

std::vector<Treatment> treatments(const OptimizerOptions& options, const FlatLayout& layout) {
  const std::vector<int> layers = layers_of(layout);
  const int last = layers.empty() ? 0 : std::ranges::max(layers);
  std::vector<Treatment> all;
  for (size_t i = 0; i < layout.entries().size(); ++i) {
    const FlatLayout::Entry& entry = layout.entries()[i];
    const GroupOptions* const group = group_of(options, entry.name);
    const bool decay = decays(options, entry);
    Treatment treatment;
    treatment.lr_factor = (group ? group->lr_factor : 1) * std::pow(options.layer_decay, last - layers[i]);
    treatment.weight_decay =
        decay ? (group && group->weight_decay ? *group->weight_decay : options.weight_decay) : 0;
    treatment.adapts = decay;
    all.push_back(treatment);
  }
  return all;
}

}  // namespace rekindle
