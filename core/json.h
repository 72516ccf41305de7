// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <nlohmann/json.hpp>

#include <string>
#include <string_view>
#include <unordered_set>
#include <vector>

#include "core/error.h"

namespace rekindle {

// What the library lets pass: equal keys in one object, and nesting without end. It sees each token once, so
// that a text of a million records takes no longer than its length.
class StrictJson final : public nlohmann::json_sax<nlohmann::json> {
 public:
  StrictJson(const std::string& where, size_t deepest) : where_(where), deepest_(deepest) {}

  bool null() override { return true; }
  bool boolean(bool) override { return true; }
  bool number_integer(number_integer_t) override { return true; }
  bool number_unsigned(number_unsigned_t) override { return true; }
  bool number_float(number_float_t, const string_t&) override { return true; }
  bool string(string_t&) override { return true; }
  bool binary(binary_t&) override { return true; }
  bool start_object(size_t) override { return open(); }
  bool start_array(size_t) override { return open(); }
  bool end_object() override { return close(); }
  bool end_array() override { return close(); }
  bool key(string_t& name) override {
    if (keys_.back().insert(name).second) return true;
    throw bad_input("bad JSON: the key \"" + name + "\" stands twice", where_);
  }
  bool parse_error(size_t, const std::string&, const nlohmann::json::exception& error) override {
    const std::string_view reason = error.what();  // "[json.exception.parse_error.101] parse error at ..."
    throw bad_input("bad JSON: " + std::string(reason.substr(reason.find("] ") + 2)), where_);
  }

 private:
  bool open() {
    keys_.emplace_back();
    if (keys_.size() > deepest_) throw bad_input("bad JSON: nested too deep", where_);
    return true;
  }
  bool close() {
    keys_.pop_back();
    return true;
  }

  const std::string& where_;
  size_t deepest_;
  std::vector<std::unordered_set<std::string>> keys_;  // of what is open
};

// Parses JSON strictly. The library alone keeps the last of two equal keys and takes a zero byte for the end
// of the text; here both are refused, as is nesting deeper than `deepest`. Throws bad_input at `where`.
inline nlohmann::json parse_json(std::string_view text, const std::string& where, size_t deepest = 16) {
  if (text.find('\0') != text.npos) throw bad_input("bad JSON: a zero byte in the text", where);
  StrictJson check(where, deepest);
  nlohmann::json::sax_parse(text.begin(), text.end(), &check);
  return nlohmann::json::parse(text.begin(), text.end());
}

}  // namespace rekindle
