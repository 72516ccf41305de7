// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "core/error.h"
#include "job/toml.h"

namespace rekindle {

// Collects what is wrong with one job file and its overrides, so that all of it is told at once.
class Mistakes {
 public:
  explicit Mistakes(std::string file) : file_(std::move(file)) {}

  // A place in the file is told with line and column; one in an override by the override.
  void add(const toml::source_region& where, std::string what);
  bool none() const { return list_.empty(); }
  Error error() const;  // the first 50 by place, a line each; and how many there are

 private:
  struct Mistake {
    bool in_file;
    toml::source_position at;
    std::string text;
  };

  std::string file_;
  std::vector<Mistake> list_;
};

// One value being read, with what its reader must know of its surroundings.
struct Item {
  const toml::node& node;
  std::string name;                     // "schedule.base_lr"
  const std::filesystem::path& folder;  // that relative paths start from
  Mistakes& mistakes;

  // Each of these records a mistake and returns none.
  std::nullopt_t wrong(const std::string& expected, const std::string& suggestion = "") const;
  std::nullopt_t not_built(const std::string& expected) const;
  std::nullopt_t refuse(const std::string& reason) const;

  Item element(const toml::node& of_it) const { return {of_it, name, folder, mistakes}; }
};

// A word of the user for a message: shortened, control characters escaped.
std::string shown(std::string_view text);

// "did you mean 'x'?" for the candidate nearest to `word`, which is told through `suggestion`; empty where
// none is.
std::string did_you_mean(std::string_view word, const std::vector<std::string>& candidates,
                         std::string* suggestion = nullptr);

}  // namespace rekindle
