// SPDX-License-Identifier: Apache-2.0
// What the table in keys.cpp is written with: sections, which add their keys row by row.
#pragma once

#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "job/keys.h"
#include "job/kinds.h"

namespace rekindle {

inline std::string in_code(const std::string& toml) {
  return toml.empty() ? "none" : "`" + toml + "`";
}

// "(not in this version: "a", "b")"; what else there is to know of the key follows.
inline std::string not_built_note(const std::vector<std::string>& values) {
  std::string note;
  for (const std::string& value : values) note += (note.empty() ? ": " : ", ") + quote(value);
  return " (not in this version" + note + ")";
}

// The row that was just added, for the words that say more about it.
template <typename Target>
class Row {
 public:
  explicit Row(Key<Target>& key) : key_(key) {}

  Row required() { return one_of({key_.name}).default_is("required"); }
  Row one_of(std::vector<std::string> names) {
    std::string words;
    for (const std::string& name : names) words += (words.empty() ? "one of `" : ", `") + name + "`";
    key_.one_of = std::move(names);
    return default_is(words);
  }
  Row default_is(std::string words) {
    key_.fallback = std::move(words);
    return *this;
  }
  Row only_with(const std::string& key, std::vector<std::string> values) {
    std::string words;
    for (const std::string& value : values) words += (words.empty() ? "`" : ", `") + value + "`";
    key_.meaning += "; only with " + words;
    key_.only = {key, std::move(values)};
    return *this;
  }
  Row may_change_on_resume() {
    key_.meaning += "; a resumed run may change it";
    key_.resumable = true;
    return *this;
  }

 private:
  Key<Target>& key_;
};

// Adds the keys of one section to `rows`. `Access` finds the room's options in a Target; what a key's default
// is, the options in `defaults` say.
template <typename Target, typename Access>
class Section {
 public:
  Section(std::vector<Key<Target>>& rows, const Target& defaults, std::string name, Access access)
      : rows_(rows), defaults_(defaults), name_(std::move(name)), access_(access) {}

  template <typename T, typename Options>
  Row<Target> key(std::string name, Kind<T> kind, T Options::*field, std::string meaning) {
    const auto get = [field](const Options& options) { return options.*field; };
    const auto set = [field](Options& options, T value) { options.*field = std::move(value); };
    return key(std::move(name), std::move(kind), get, set, std::move(meaning));
  }

  template <typename T, typename Get, typename Set>
  Row<Target> key(std::string name, Kind<T> kind, Get get, Set set, std::string meaning) {
    if (!kind.not_built.empty()) meaning += not_built_note(kind.not_built);
    Key<Target>& row = add(std::move(name), kind.type, std::move(meaning));
    row.read = [kind, access = access_, set](const Item& item, Target& target) {
      std::optional<T> value = kind.read(item);
      if (value) set(access(target), std::move(*value));
      return value.has_value();
    };
    row.print = [kind, access = access_, get](const Target& target) {
      return kind.print(get(access(target)));
    };
    row.fallback = in_code(row.print(defaults_));
    return Row<Target>(row);
  }

  // A key of a part that is not built yet: takes its neutral value, or nothing at all.
  template <typename T>
  Row<Target> later(std::string name, Kind<T> kind, std::optional<T> neutral, std::string meaning) {
    const std::string only = neutral ? kind.print(*neutral) : "";
    Key<Target>& row = add(std::move(name), kind.type, meaning + not_built_note(kind.not_built));
    row.read = [kind, neutral, only](const Item& item, Target&) {
      const std::optional<T> value = kind.read(item);
      if (value && value != neutral) item.not_built(only);
      return value.has_value() && value == neutral;
    };
    row.print = [](const Target&) { return ""; };
    row.fallback = in_code(only);
    return Row<Target>(row);
  }

 private:
  Key<Target>& add(std::string name, std::string type, std::string meaning) {
    Key<Target>& row = rows_.emplace_back();
    row.section = name_;
    row.name = std::move(name);
    row.type = std::move(type);
    row.meaning = std::move(meaning);
    return row;
  }

  std::vector<Key<Target>>& rows_;
  const Target& defaults_;
  std::string name_;
  Access access_;
};

}  // namespace rekindle
