// SPDX-License-Identifier: Apache-2.0
// The one table of everything that a job file may say. Reading, suggestions, writing and the check of
// docs/job-file.md all go through it; there is no second list.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "job/job.h"
#include "job/mistakes.h"

namespace rekindle {

// Another key, and its values with which a key goes; no values: any.
struct Only {
  std::string key;
  std::vector<std::string> values = {};
};

// A key, and where its value goes in a Target: a Job, or one increment of its data.
template <typename Target>
struct Key {
  std::string section, name;  // "data.normalize", "mean"
  std::string type;           // "a number > 0"
  std::string fallback;       // what holds where it is not given, as the docs show it
  std::string meaning;
  std::vector<std::string> one_of = {};  // exactly one of these names of the section must be given
  Only only = {};                        // where it has a meaning
  bool resumable = false;                // a resumed run may change it, so it is not part of the job's digest
  std::function<bool(const Item&, Target&)> read;   // false: a mistake was recorded
  std::function<std::string(const Target&)> print;  // as TOML; empty where there is nothing to say

  std::string full_name() const { return section + "." + name; }
};

const std::vector<Key<Job>>& job_keys();                     // keys of one section stand together
const std::vector<Key<IncrementOptions>>& increment_keys();  // of a table in data.increments
const std::vector<Key<GroupOptions>>& group_keys();          // of a table in optimizer.groups

// Whether the key it goes with has one of the values that it goes with.
bool has_meaning(const Key<Job>& key, const Job& job);

bool is_section(const std::string& name);                       // also "data", "data.normalize"
std::vector<std::string> names_in(const std::string& section);  // its keys and tables; "": the sections

template <typename Target>
const Key<Target>* find_key(const std::vector<Key<Target>>& keys, const std::string& section,
                            std::string_view name) {
  for (const Key<Target>& key : keys) {
    if (key.name == name && key.section == section) return &key;
  }
  return nullptr;
}

inline constexpr char kIncrements[] = "data.increments";
inline constexpr char kGroups[] = "optimizer.groups";
inline constexpr char kAnyModel[] = "model";  // the section that takes any key, for models of one's own

// [model]: what built-in models that are not built yet are called.
const std::vector<std::string>& models_not_built();
std::optional<ModelOptions::Value> read_model_value(const Item& item);  // of a model of one's own
std::string print_model_value(const ModelOptions::Value& value);

std::optional<std::vector<IncrementOptions>> read_increments(const Item& item);
std::string print_increments(const std::vector<IncrementOptions>& increments);
std::optional<std::vector<GroupOptions>> read_groups(const Item& item);
std::string print_groups(const std::vector<GroupOptions>& groups);

}  // namespace rekindle
