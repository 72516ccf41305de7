// SPDX-License-Identifier: Apache-2.0
#include "checkpoints/fields.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "core/error.h"

namespace rekindle {
namespace {

// A parsed number is unsigned where it can be; one that was put there by a program may be a signed one.
bool is_bits(const nlohmann::json& value) {
  return value.is_number_unsigned() || (value.is_number_integer() && value.get<int64_t>() >= 0);
}

bool is_count(const nlohmann::json& value) {
  return is_bits(value) && value.get<uint64_t>() <= uint64_t{std::numeric_limits<int64_t>::max()};
}

}  // namespace

Fields::Fields(const nlohmann::json& object, std::string where) : object_(object), where_(std::move(where)) {
  if (!object.is_object()) throw bad_input("expected a JSON object", where_);
}

std::string Fields::text(const char* key) const {
  if (!find(key).is_string()) reject(key, "a text");
  return find(key).get<std::string>();
}

int64_t Fields::count(const char* key) const {
  if (!is_count(find(key))) reject(key, "a whole number, 0 or more");
  return find(key).get<int64_t>();
}

uint64_t Fields::bits(const char* key) const {
  if (!is_bits(find(key))) reject(key, "a whole number, 0 or more");
  return find(key).get<uint64_t>();
}

double Fields::number(const char* key) const {
  if (!find(key).is_number() || !std::isfinite(find(key).get<double>())) reject(key, "a finite number");
  return find(key).get<double>();
}

bool Fields::truth(const char* key) const {
  if (!find(key).is_boolean()) reject(key, "true or false");
  return find(key).get<bool>();
}

std::optional<double> Fields::maybe_number(const char* key) const {
  return object_.contains(key) ? std::optional(number(key)) : std::nullopt;
}

double Fields::share(const char* key) const {
  const double value = number(key);
  if (value < 0 || value > 1) reject(key, "a share from 0 to 1");
  return value;
}

std::string Fields::digest(const char* key) const {
  if (!is_digest(text(key))) reject(key, "a digest of 32 hexadecimal digits");
  return text(key);
}

std::string Fields::digest_or_empty(const char* key) const {
  return text(key).empty() ? "" : digest(key);
}

std::vector<std::string> Fields::texts(const char* key) const {
  std::vector<std::string> values;
  for (const auto& value : list(key)) {
    if (!value.is_string()) reject(key, "a list of texts");
    values.push_back(value.get<std::string>());
  }
  return values;
}

std::vector<int64_t> Fields::counts(const char* key) const {
  std::vector<int64_t> values;
  for (const auto& value : list(key)) {
    if (!is_count(value)) reject(key, "a list of whole numbers, 0 or more");
    values.push_back(value.get<int64_t>());
  }
  return values;
}

const nlohmann::json& Fields::object(const char* key) const {
  if (!find(key).is_object()) reject(key, "an object");
  return find(key);
}

std::vector<Fields> Fields::objects(const char* key) const {
  std::vector<Fields> values;
  for (const auto& value : list(key)) {
    if (!value.is_object()) reject(key, "a list of objects");
    values.emplace_back(value, where_);
  }
  return values;
}

const nlohmann::json& Fields::find(const char* key) const {
  const auto found = object_.find(key);
  if (found == object_.end()) throw bad_input("no \"" + std::string(key) + "\"", where_);
  return *found;
}

const nlohmann::json& Fields::list(const char* key) const {
  if (!find(key).is_array()) reject(key, "a list");
  return find(key);
}

void Fields::reject(const char* key, const char* expected) const {
  throw bad_input(
      "\"" + std::string(key) + "\" is " + find(key).dump().substr(0, 60) + ", expected " + expected, where_);
}

bool is_digest(const std::string& text) {
  const auto is_digit = [](char c) { return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f'); };
  return text.size() == 32 && std::ranges::all_of(text, is_digit);
}

}  // namespace rekindle
