// SPDX-License-Identifier: Apache-2.0
// The kinds of values that a job file holds: what each accepts, and how it is written.
#pragma once

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <functional>
#include <limits>
#include <string>
#include <utility>
#include <vector>

#include "core/units.h"
#include "job/mistakes.h"

namespace rekindle {

template <typename T>
struct Kind {
  std::string type;                                   // "a number > 0": in the docs, and after "expected"
  std::function<std::optional<T>(const Item&)> read;  // none: a mistake was recorded
  std::function<std::string(const T&)> print;         // a TOML value; empty: nothing to say
  std::vector<std::string> not_built = {};            // values that a later version will take
};

std::string quote(std::string_view text);  // as a TOML string
std::string to_toml_number(double value);  // reads back to the same float

struct Bounds {
  double low = -std::numeric_limits<double>::infinity();
  double high = std::numeric_limits<double>::infinity();
  bool low_taken = true, high_taken = true;  // [low, high], or without the end

  bool hold(double value) const;
  std::string text() const;  // " > 0", " in [0, 1)"
};
inline Bounds above(double low) {
  return {.low = low, .low_taken = false};
}
inline Bounds at_least(double low) {
  return {.low = low};
}
inline Bounds from_to(double low, double high) {
  return {.low = low, .high = high};
}
inline Bounds from_to_below(double low, double high) {
  return {.low = low, .high = high, .high_taken = false};
}

Kind<bool> boolean();
Kind<double> number(Bounds bounds = {});              // finite; an integer will do
Kind<std::string> text(std::string type = "a text");  // not empty
Kind<std::filesystem::path> path();                   // absolute and normal
Kind<std::string> path_or(std::string word);          // the word, "" or a path
Kind<size_t> list(std::string type);                  // only its length counts

Kind<int64_t> integer64(int64_t low, int64_t high, std::string type);
template <typename T>
Kind<T> integer(T low, T high = std::numeric_limits<T>::max());

// What a length may be, beside samples, batches and epochs. Tokens are not in this version.
struct LengthRule {
  std::string type;
  bool zero = true, share = true, time = true;
};
Kind<Length> length(LengthRule rule = {"a length"});
inline const LengthRule kInterval{.type = "a length > 0", .zero = false};
Kind<std::chrono::milliseconds> wait_time();  // a time > 0

template <typename T>
Kind<T> choice(std::vector<std::pair<std::string, T>> values, std::vector<std::string> not_built = {});
Kind<std::string> choice(std::vector<std::string> values, std::vector<std::string> not_built = {});

template <typename T>
Kind<std::vector<T>> list_of(Kind<T> element, std::string type);
template <typename T>
Kind<std::pair<T, T>> pair_of(Kind<T> element, std::string type);
template <typename T>
Kind<std::optional<T>> maybe(Kind<T> kind);  // a field that may stay empty
template <typename T>
Kind<T> list_of_one(Kind<T> element, std::string type);  // "[0.5]"; more are not in this version

// From here on: the bodies of the templates.

// The index of `value` in `names`; none and a mistake where it is not there.
std::optional<size_t> find_choice(const Item& item, const std::vector<std::string>& names,
                                  const std::vector<std::string>& not_built);
std::string either(const std::vector<std::string>& names);  // "\"a\", \"b\" or \"c\""

// The elements of the list in `item`, each read; none and mistakes where one is wrong.
template <typename T>
std::optional<std::vector<T>> read_elements(const Item& item, const Kind<T>& element,
                                            const std::string& type) {
  const toml::array* array = item.node.as_array();
  if (array == nullptr) return item.wrong(type);
  std::vector<T> values;
  for (const toml::node& node : *array) {
    if (std::optional<T> value = element.read(item.element(node))) values.push_back(std::move(*value));
  }
  if (values.size() < array->size()) return std::nullopt;
  return values;
}

template <typename T>
Kind<T> integer(T low, T high) {
  constexpr uint64_t kMost = std::numeric_limits<int64_t>::max();  // of TOML
  const bool open = high == std::numeric_limits<T>::max();
  const std::string bounds =
      open ? " >= " + std::to_string(low) : " in [" + std::to_string(low) + ", " + std::to_string(high) + "]";
  const Kind<int64_t> wide =
      integer64(static_cast<int64_t>(low), static_cast<int64_t>(std::min<uint64_t>(high, kMost)),
                "an integer" + bounds);
  return {wide.type,
          [wide](const Item& item) -> std::optional<T> {
            const std::optional<int64_t> value = wide.read(item);
            return value ? std::optional<T>(static_cast<T>(*value)) : std::nullopt;
          },
          [](const T& value) { return std::to_string(value); }};
}

template <typename T>
Kind<T> choice(std::vector<std::pair<std::string, T>> values, std::vector<std::string> not_built) {
  std::vector<std::string> names;
  for (const auto& [name, value] : values) names.push_back(name);
  return {either(names),
          [values, names, not_built](const Item& item) -> std::optional<T> {
            const std::optional<size_t> index = find_choice(item, names, not_built);
            return index ? std::optional<T>(values[*index].second) : std::nullopt;
          },
          [values](const T& wanted) -> std::string {
            for (const auto& [name, value] : values) {
              if (value == wanted) return quote(name);
            }
            return "";
          },
          not_built};
}

template <typename T>
Kind<std::vector<T>> list_of(Kind<T> element, std::string type) {
  return {type, [element, type](const Item& item) { return read_elements(item, element, type); },
          [element](const std::vector<T>& values) {
            std::string text;
            for (const T& value : values) text += (text.empty() ? "" : ", ") + element.print(value);
            return "[" + text + "]";
          }};
}

template <typename T>
Kind<std::pair<T, T>> pair_of(Kind<T> element, std::string type) {
  return {type,
          [element, type](const Item& item) -> std::optional<std::pair<T, T>> {
            const auto values = read_elements(item, element, type);
            if (!values) return std::nullopt;
            if (values->size() != 2) return item.wrong(type);
            return std::pair(values->front(), values->back());
          },
          [element](const std::pair<T, T>& pair) {
            return "[" + element.print(pair.first) + ", " + element.print(pair.second) + "]";
          }};
}

template <typename T>
Kind<T> list_of_one(Kind<T> element, std::string type) {
  return {type,
          [element, type](const Item& item) -> std::optional<T> {
            const auto values = read_elements(item, element, type);
            if (!values) return std::nullopt;
            if (values->size() > 1) {
              return item.refuse("has more than one value, which is not in this version, expected " + type);
            }
            if (values->empty()) return item.wrong(type);
            return values->front();
          },
          [element](const T& value) { return "[" + element.print(value) + "]"; }};
}

template <typename T>
Kind<std::optional<T>> maybe(Kind<T> kind) {
  return {kind.type,
          [kind](const Item& item) -> std::optional<std::optional<T>> {
            std::optional<T> value = kind.read(item);
            if (!value) return std::nullopt;
            return std::optional<std::optional<T>>(std::in_place, std::move(value));
          },
          [kind](const std::optional<T>& value) { return value ? kind.print(*value) : ""; }, kind.not_built};
}

}  // namespace rekindle
