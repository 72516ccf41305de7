// SPDX-License-Identifier: Apache-2.0
#include "models/options.h"

#include "core/error.h"

namespace rekindle {
namespace {

using Values = std::map<std::string, ModelOptions::Value>;

const std::map<std::string, Values>& built_ins() {
  static const std::map<std::string, Values> models{
      {"logistic", {}},
      {"mlp", {{"hidden", std::vector<int64_t>{100, 100}}, {"dropout", 0.0}, {"batch_norm", false}}},
      {"resnet18", {}},
  };
  return models;
}

Error wrong_type(const std::string& key, const char* expected) {
  return bad_input("model." + key + " has the wrong type, expected " + expected);
}

}  // namespace

template <typename T>
const T* ModelOptions::find(const std::string& key, const char* expected) const {
  read_.insert(key);
  const auto found = values_.find(key);
  if (found == values_.end()) return nullptr;
  const T* value = std::get_if<T>(&found->second);
  if (value == nullptr) throw wrong_type(key, expected);
  return value;
}

bool ModelOptions::boolean(const std::string& key, bool fallback) const {
  const bool* value = find<bool>(key, "true or false");
  return value ? *value : fallback;
}

int64_t ModelOptions::integer(const std::string& key, int64_t fallback) const {
  const int64_t* value = find<int64_t>(key, "an integer");
  return value ? *value : fallback;
}

double ModelOptions::real(const std::string& key, double fallback) const {
  const auto found = values_.find(key);
  if (found != values_.end() && std::holds_alternative<int64_t>(found->second)) {
    return static_cast<double>(integer(key, 0));
  }
  const double* value = find<double>(key, "a number");
  return value ? *value : fallback;
}

std::string ModelOptions::text(const std::string& key, const std::string& fallback) const {
  const std::string* value = find<std::string>(key, "a text");
  return value ? *value : fallback;
}

std::vector<int64_t> ModelOptions::integers(const std::string& key,
                                            const std::vector<int64_t>& fallback) const {
  const std::vector<int64_t>* value = find<std::vector<int64_t>>(key, "a list of integers");
  return value ? *value : fallback;
}

std::vector<std::string> ModelOptions::unread() const {
  std::vector<std::string> keys;
  for (const auto& [key, value] : values_) {
    if (!read_.contains(key)) keys.push_back(key);
  }
  return keys;
}

std::vector<std::string> built_in_model_keys(const std::string& model) {
  std::vector<std::string> keys;
  for (const auto& [key, value] : built_in_model_defaults(model)) keys.push_back(key);
  return keys;
}

std::vector<std::string> built_in_models() {
  std::vector<std::string> names;
  for (const auto& [name, values] : built_ins()) names.push_back(name);
  return names;
}

std::map<std::string, ModelOptions::Value> built_in_model_defaults(const std::string& model) {
  const auto found = built_ins().find(model);
  return found == built_ins().end() ? Values{} : found->second;
}

}  // namespace rekindle
