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

// Where a parameter's layer stands: the element of a list of modules ("encoder.", "layer", "3" of
// "encoder.layer.3.output.weight"), or a module ("embeddings" of "embeddings.weight").
struct Place {
  std::string parent, list, index;

  std::string name() const { return parent + list + (index.empty() ? "" : "." + index); }
};

Place place_of(const std::string& parameter) {
  std::istringstream parts(parameter);
  std::string part;
  Place place;
  while (std::getline(parts, part, '.')) {
    if (parts.eof()) break;  // `part` is the parameter's own name
    if (is_number(part)) {
      place.index = part;
      break;
    }
    if (!place.list.empty()) place.parent += place.list + ".";
    place.list = part;
  }
  return place;
}

bool matches_any(const std::vector<std::string>& globs, const std::string& name) {
  return std::ranges::any_of(globs, [&](const std::string& glob) { return matches_glob(glob, name); });
}

}  // namespace

std::vector<std::string> moment_names_of(const OptimizerOptions& options) {
  if (has_betas(options.name)) return {"exp_avg", "exp_avg_sq"};
  if (options.name == "lars") return {"velocity"};  // PyTorch has none; it is no gradient, as SGD's buffer is
  if (options.momentum != 0) return {"momentum_buffer"};
  return {};
}

bool decays(const OptimizerOptions& options, const FlatLayout::Entry& parameter) {
  return options.no_decay ? !matches_any(*options.no_decay, parameter.name) : parameter.shape.size() > 1;
}

const GroupOptions* group_of(const OptimizerOptions& options, const std::string& parameter) {
  const auto has = [&](const GroupOptions& group) { return matches_any(group.match, parameter); };
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
  const auto is_spared = [&](const std::string& name) { return matches_any(*options.no_decay, name); };
  if (!options.no_decay || options.no_decay->empty() || std::ranges::any_of(parameters, is_spared)) return;
  throw bad_input("no parameter matches '" + options.no_decay->front() + "'", "optimizer.no_decay",
                  "all would decay; [] says so, and `rekindle inspect` of a checkpoint lists the names");
}

std::vector<int> layers_of(const FlatLayout& layout) {
  std::set<std::string> lists;                // that are more than norms
  std::map<std::string, std::string> beside;  // by parent and index: the element of the first such list
  for (const FlatLayout::Entry& entry : layout.entries()) {
    const Place place = place_of(entry.name);
    if (place.index.empty() || entry.shape.size() <= 1) continue;
    lists.insert(place.parent + place.list);
    beside.emplace(place.parent + place.index, place.name());
  }
  std::map<std::string, int> numbers;
  std::vector<int> layers;
  for (const FlatLayout::Entry& entry : layout.entries()) {
    const Place place = place_of(entry.name);
    std::string name = place.name();
    if (!place.index.empty() && !lists.contains(place.parent + place.list)) {
      const auto element = beside.find(place.parent + place.index);
      if (element != beside.end()) name = element->second;
    }
    const auto [known, is_new] = numbers.try_emplace(name, static_cast<int>(numbers.size()));
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
