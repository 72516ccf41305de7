// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <map>
#include <set>
#include <string>
#include <variant>
#include <vector>

namespace rekindle {

// `[model]`: the name, and the keys that the model of that name reads for itself. It remembers which keys
// were asked for, so that one that no model reads is an error and not silence.
class ModelOptions {
 public:
  using Value =
      std::variant<bool, int64_t, double, std::string, std::vector<int64_t>, std::vector<std::string>>;

  ModelOptions() = default;
  ModelOptions(std::string name, std::map<std::string, Value> values)
      : name_(std::move(name)), values_(std::move(values)) {}

  const std::string& name() const { return name_; }
  const std::map<std::string, Value>& values() const { return values_; }

  // The value of `key`, or `fallback` where the job does not give it. Throws bad_input for another type.
  bool boolean(const std::string& key, bool fallback) const;
  int64_t integer(const std::string& key, int64_t fallback) const;
  double real(const std::string& key, double fallback) const;  // an integer will do
  std::string text(const std::string& key, const std::string& fallback) const;
  std::vector<int64_t> integers(const std::string& key, const std::vector<int64_t>& fallback) const;

  std::vector<std::string> unread() const;  // keys given that nobody asked for

 private:
  template <typename T>
  const T* find(const std::string& key, const char* expected) const;

  std::string name_ = "mlp";
  std::map<std::string, Value> values_;
  mutable std::set<std::string> read_;
};

// The keys of the built-in models, so that a slip is found before anything is started.
// None for a name that is not built in.
std::vector<std::string> built_in_model_keys(const std::string& model);
std::vector<std::string> built_in_models();

// What a built-in model's keys are where the job does not give them; the type of each value is the key's
// type.
std::map<std::string, ModelOptions::Value> built_in_model_defaults(const std::string& model);

}  // namespace rekindle
