// SPDX-License-Identifier: Apache-2.0
#include "job/keys.h"
#include "job/kinds.h"
#include "job/tables.h"

namespace rekindle {
namespace {

std::optional<GroupOptions> read_group(const Item& item) {
  const toml::table* table = item.node.as_table();
  if (table == nullptr) return item.wrong("a table");
  GroupOptions group;
  if (!read_table(*table, item, group_keys(), kGroups, group)) return std::nullopt;
  if (group.match.empty()) return item.refuse("lacks 'match', expected a list of globs");
  if (group.freeze && (group.lr_factor != 1 || group.weight_decay || !group.unfreeze_at.is_zero()))
    return item.refuse("has 'freeze' and also how to train it, expected one or the other");
  return group;
}

}  // namespace

std::optional<std::vector<GroupOptions>> read_groups(const Item& item) {
  constexpr char kExpected[] = "a list of tables";
  return read_elements(item, Kind<GroupOptions>{kExpected, read_group, {}}, kExpected);
}

std::string print_groups(const std::vector<GroupOptions>& groups) {
  return print_tables(groups, group_keys());
}

}  // namespace rekindle
