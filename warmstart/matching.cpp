// SPDX-License-Identifier: Apache-2.0
#include "warmstart/matching.h"

#include <algorithm>
#include <map>
#include <regex>
#include <set>

#include "core/error.h"
#include "core/text.h"

namespace rekindle {
namespace {

using safetensors::DType;
using safetensors::TensorInfo;

std::string shape_text(std::span<const int64_t> shape) {
  std::string text = "[";
  for (size_t i = 0; i < shape.size(); ++i) text += (i ? ", " : "") + std::to_string(shape[i]);
  return text + "]";
}

bool is_floating(DType dtype) {
  switch (dtype) {
    case DType::kF16:
    case DType::kBF16:
    case DType::kF32:
    case DType::kF64:
    case DType::kF8E4M3:
    case DType::kF8E5M2:
    case DType::kF8E8M0:
    case DType::kF8E4M3FNUZ:
    case DType::kF8E5M2FNUZ:
      return true;
    default:
      return false;
  }
}

// "'a.weight', 'a.bias' and 7 more".
template <typename List, typename Name>
std::string some_names(const List& list, const Name& name) {
  constexpr size_t kMost = 6;
  std::vector<std::string> names;
  for (size_t i = 0; i < list.size() && i < kMost; ++i) names.push_back("'" + name(list[i]) + "'");
  if (list.size() > kMost) names.push_back(std::to_string(list.size() - kMost) + " more");
  return names.empty() ? "nothing" : enumerate(names);
}

// The rules of `rename`, ready for use.
class Renamer {
 public:
  explicit Renamer(const WarmStartOptions& options) : rules_(options.rename), used_(rules_.size()) {
    for (const auto& [pattern, replacement] : rules_) {
      try {
        patterns_.emplace_back(pattern);
      } catch (const std::regex_error& error) {
        throw bad_input("'" + pattern + "' is not a regular expression: " + error.what(), "warm_start.rename",
                        "ECMAScript's, as in [[\"^backbone\\\\.\", \"\"]]");
      }
    }
  }

  std::string operator()(const std::string& name) {
    std::string renamed = name;
    for (size_t i = 0; i < rules_.size(); ++i) {
      if (!std::regex_search(renamed, patterns_[i])) continue;
      used_[i] = true;
      renamed = std::regex_replace(renamed, patterns_[i], rules_[i].second);
    }
    return renamed;
  }

  void check_used(std::span<const TensorInfo* const> sources) const {
    for (size_t i = 0; i < rules_.size(); ++i) {
      if (used_[i]) continue;
      throw bad_input(
          "'" + rules_[i].first + "' matches no name in the parent", "warm_start.rename",
          "the parent has " + some_names(sources, [](const TensorInfo* info) { return info->name; }));
    }
  }

 private:
  std::vector<std::pair<std::string, std::string>> rules_;
  std::vector<std::regex> patterns_;
  std::vector<bool> used_;
};

bool matches_any(const std::vector<std::string>& globs, const std::string& name) {
  return std::ranges::any_of(globs, [&](const std::string& glob) { return matches_glob(glob, name); });
}

// A slip in a glob would load less, or more, than was meant.
void check_globs(const std::vector<std::string>& globs, std::span<const Target> targets, const char* key) {
  for (const std::string& glob : globs) {
    const auto hit = [&](const Target& target) { return matches_glob(glob, target.name); };
    if (std::ranges::none_of(targets, hit)) {
      throw bad_input(
          "'" + glob + "' matches no tensor of the model", key,
          "the model has " + some_names(targets, [](const Target& target) { return target.name; }));
    }
  }
}

bool is_wanted(const Target& target, const WarmStartOptions& options) {
  const Carry part = is_running_statistic(target.name) ? options.batch_norm : options.weights;
  return part == Carry::kLoad && (options.include.empty() || matches_any(options.include, target.name)) &&
         !matches_any(options.exclude, target.name);
}

// For each row of a child's head the parent's of the same class, or -1; empty where this is no head that
// grew.
std::vector<int64_t> rows_of_head(const TensorInfo& source, const Target& target,
                                  const HeadClasses& classes) {
  const auto rows = [](const std::vector<int64_t>& shape) { return shape.empty() ? -1 : shape[0]; };
  const bool head = !classes.parent.empty() && source.shape.size() == target.shape.size() &&
                    rows(source.shape) == static_cast<int64_t>(classes.parent.size()) &&
                    rows(target.shape) == static_cast<int64_t>(classes.child.size()) &&
                    std::equal(source.shape.begin() + 1, source.shape.end(), target.shape.begin() + 1);
  if (!head || classes.parent == classes.child) return {};
  std::vector<int64_t> from;
  for (const std::string& name : classes.child) {
    const auto place = std::ranges::find(classes.parent, name);
    from.push_back(place == classes.parent.end() ? -1 : place - classes.parent.begin());
  }
  return from;
}

Match pair_up(const TensorInfo& source, const Target& target, const HeadClasses& classes,
              const std::string& where) {
  Match match{0, 0, source.name != target.name, source.dtype != target.dtype,
              rows_of_head(source, target, classes)};
  if (match.rows.empty() && source.shape != target.shape) {
    throw bad_input("tensor '" + source.name + "' is " + shape_text(source.shape) + " in the file and " +
                        shape_text(target.shape) + " in the model",
                    where,
                    "the model must be of the same size, but for a head whose classes are known; "
                    "warm_start.exclude leaves a tensor out");
  }
  if (match.converted && !(is_floating(source.dtype) && is_floating(target.dtype))) {
    throw bad_input("tensor '" + source.name + "' is " + std::string(name_of(source.dtype)) +
                        " in the file and " + std::string(name_of(target.dtype)) + " in the model",
                    where, "only floating-point types are converted into each other");
  }
  return match;
}

}  // namespace

bool is_running_statistic(const std::string& name) {
  return std::ranges::any_of(
      std::vector<std::string>{"running_mean", "running_var", "num_batches_tracked"},
      [&](const std::string& last) { return name == last || name.ends_with("." + last); });
}

Matching match(std::span<const TensorInfo* const> sources, std::span<const Target> targets,
               const WarmStartOptions& options, const HeadClasses& classes, const std::string& where) {
  check_globs(options.include, targets, "warm_start.include");
  check_globs(options.exclude, targets, "warm_start.exclude");
  std::map<std::string, size_t> wanted;
  for (size_t i = 0; i < targets.size(); ++i) {
    if (is_wanted(targets[i], options)) wanted[targets[i].name] = i;
  }
  Renamer rename(options);
  Matching matching;
  std::map<std::string, std::string> origin;  // of each name, after the rules
  std::set<size_t> loaded;
  for (size_t i = 0; i < sources.size(); ++i) {
    const std::string name = rename(sources[i]->name);
    const auto [other, is_new] = origin.try_emplace(name, sources[i]->name);
    if (!is_new) {
      throw bad_input("'" + other->second + "' and '" + sources[i]->name + "' both become '" + name + "'",
                      "warm_start.rename", "make the patterns narrower");
    }
    const auto target = wanted.find(name);
    if (target == wanted.end()) {
      matching.unused.push_back(i);
      continue;
    }
    Match found = pair_up(*sources[i], targets[target->second], classes, where);
    found.source = i;
    found.target = target->second;
    matching.matches.push_back(std::move(found));
    loaded.insert(target->second);
  }
  rename.check_used(sources);
  for (size_t i = 0; i < targets.size(); ++i) {
    if (!loaded.contains(i)) matching.fresh.push_back(i);
  }
  return matching;
}

}  // namespace rekindle
