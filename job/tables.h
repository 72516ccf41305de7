// SPDX-License-Identifier: Apache-2.0
// Tables inside of a list, each with the same few keys.
#pragma once

#include <string>
#include <vector>

#include "job/keys.h"
#include "job/reader.h"

namespace rekindle {

// Fills `target` from the table in `item`; false where a mistake was recorded.
template <typename Target>
bool read_table(const toml::table& table, const Item& item, const std::vector<Key<Target>>& keys,
                const char* section, Target& target) {
  bool good = true;
  for (const auto& [key, node] : table) {
    const Key<Target>* row = find_key(keys, section, key.str());
    if (row == nullptr) report_unknown(key, section, item.mistakes);
    good &= row != nullptr && row->read({node, row->full_name(), item.folder, item.mistakes}, target);
  }
  return good;
}

template <typename Target>
std::string print_table(const Target& target, const std::vector<Key<Target>>& keys) {
  std::string text;
  for (const Key<Target>& key : keys) {
    const std::string value = key.print(target);
    if (!value.empty()) text += (text.empty() ? "" : ", ") + key.name + " = " + value;
  }
  return "{ " + text + " }";
}

template <typename Target>
std::string print_tables(const std::vector<Target>& targets, const std::vector<Key<Target>>& keys) {
  std::string text;
  for (const Target& target : targets) text += "  " + print_table(target, keys) + ",\n";
  return text.empty() ? "" : "[\n" + text + "]";
}

}  // namespace rekindle
