// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <nlohmann/json.hpp>

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace rekindle {

// The fields of a JSON object read with their types checked: what is missing or of another type is a
// bad_input that names file and key. Keys that nobody asks for are left alone, so that a later version may
// add some.
class Fields {
 public:
  Fields(const nlohmann::json& object, std::string where);  // keeps a reference to `object`

  std::string text(const char* key) const;
  int64_t count(const char* key) const;                       // a whole number from 0 to 2^63-1
  uint64_t bits(const char* key) const;                       // a whole number from 0 to 2^64-1
  double number(const char* key) const;                       // finite
  std::optional<double> maybe_number(const char* key) const;  // the same; none where the key is missing
  bool truth(const char* key) const;
  double share(const char* key) const;        // 0 to 1
  std::string digest(const char* key) const;  // 32 lower-case hexadecimal digits
  std::string digest_or_empty(const char* key) const;
  std::vector<std::string> texts(const char* key) const;
  std::vector<int64_t> counts(const char* key) const;
  const nlohmann::json& object(const char* key) const;
  std::vector<Fields> objects(const char* key) const;

 private:
  const nlohmann::json& find(const char* key) const;
  const nlohmann::json& list(const char* key) const;
  [[noreturn]] void reject(const char* key, const char* expected) const;

  const nlohmann::json& object_;
  std::string where_;
};

bool is_digest(const std::string& text);

}  // namespace rekindle
