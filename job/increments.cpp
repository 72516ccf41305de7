// SPDX-License-Identifier: Apache-2.0
#include "job/keys.h"
#include "job/kinds.h"
#include "job/tables.h"

namespace rekindle {
namespace {

// What is wrong with the keys together; empty where nothing is.
std::string contradiction(const toml::table& table) {
  const bool images = table.contains("images"), labels = table.contains("labels"),
             path = table.contains("path");
  if (path && (images || labels))
    return "has 'path' and also 'images' or 'labels', expected one or the other";
  if (images != labels) return images ? "lacks 'labels'" : "lacks 'images'";
  return path || images ? "" : "is empty, expected 'images' and 'labels', or 'path'";
}

std::optional<IncrementOptions> read_increment(const Item& item) {
  IncrementOptions increment;
  if (item.node.is_string()) {
    const auto file = path().read(item);
    if (!file) return std::nullopt;
    increment.path = *file;
    return increment;
  }
  const toml::table* table = item.node.as_table();
  if (table == nullptr) return item.wrong("a table or a path");

  if (!read_table(*table, item, increment_keys(), kIncrements, increment)) return std::nullopt;
  const std::string wrong = contradiction(*table);
  if (!wrong.empty()) return item.refuse(wrong);
  return increment;
}

}  // namespace

std::optional<std::vector<IncrementOptions>> read_increments(const Item& item) {
  constexpr char kExpected[] = "a list of at least one table or path";
  const toml::array* array = item.node.as_array();
  if (array == nullptr || array->empty()) return item.wrong(kExpected);
  return read_elements(item, Kind<IncrementOptions>{kExpected, read_increment, {}}, kExpected);
}

std::string print_increments(const std::vector<IncrementOptions>& increments) {
  return print_tables(increments, increment_keys());
}

}  // namespace rekindle
