// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <nlohmann/json.hpp>

#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "core/error.h"

namespace rekindle {

// Parses JSON strictly. The library alone keeps the last of two equal keys and takes a zero byte for the end
// of the text; here both are refused, as is nesting deeper than `deepest`. Throws bad_input at `where`.
inline nlohmann::json parse_json(std::string_view text, const std::string& where, int deepest = 16) {
  using nlohmann::json;
  if (text.find('\0') != text.npos) throw bad_input("bad JSON: a zero byte in the text", where);
  std::vector<std::set<std::string>> keys;  // of the objects that are open
  const auto check = [&](int depth, json::parse_event_t event, json& parsed) {
    if (depth > deepest) throw bad_input("bad JSON: nested too deep", where);
    if (event == json::parse_event_t::object_start) keys.emplace_back();
    if (event == json::parse_event_t::object_end) keys.pop_back();
    if (event == json::parse_event_t::key && !keys.back().insert(parsed.get<std::string>()).second) {
      throw bad_input("bad JSON: the key \"" + parsed.get<std::string>() + "\" stands twice", where);
    }
    return true;
  };
  try {
    return json::parse(text.begin(), text.end(), check);
  } catch (const json::exception& error) {
    const std::string_view reason = error.what();  // "[json.exception.parse_error.101] parse error at ..."
    throw bad_input("bad JSON: " + std::string(reason.substr(reason.find("] ") + 2)), where);
  }
}

}  // namespace rekindle
