// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <map>
#include <set>
#include <string>

#include "job/job.h"
#include "job/mistakes.h"

namespace rekindle {

// Which keys a file gave, for the rules that span several.
class Given {
 public:
  void add(const std::string& name, const toml::source_region& where, bool good) {
    keys_[name] = {where, good};
  }
  void add_slip(const std::string& meant) { slips_.insert(meant); }

  bool has(const std::string& name) const { return keys_.contains(name); }
  bool well(const std::string& name) const {
    return !has(name) || keys_.at(name).good;
  }  // not given, or read well
  const toml::source_region& where(const std::string& name) const { return keys_.at(name).where; }
  bool slipped(const std::string& name) const { return slips_.contains(name); }  // given, but misspelt

 private:
  struct At {
    toml::source_region where;
    bool good;
  };
  std::map<std::string, At> keys_;
  std::set<std::string> slips_;
};

// Records an unknown key with the nearest known one, whose full name is returned; empty where none is near.
std::string report_unknown(const toml::key& key, const std::string& section, Mistakes& mistakes);

// The rules that no key can check alone, and the defaults that depend on other keys.
void check_rules(const toml::table& root, const Given& given, Job& job, Mistakes& mistakes);

}  // namespace rekindle
