// SPDX-License-Identifier: Apache-2.0
#include "job/kinds.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <cstdio>

namespace rekindle {
namespace {

// "0.5", "1", "1e-08" as people write bounds.
std::string plain(double value) {
  std::array<char, 32> buffer;
  return {buffer.data(), std::to_chars(buffer.data(), buffer.data() + buffer.size(), value).ptr};
}

bool has_control_characters(const std::string& text) {
  return std::any_of(text.begin(), text.end(), [](unsigned char c) { return c < 0x20 || c == 0x7f; });
}

std::filesystem::path absolute_path(const std::string& text, const std::filesystem::path& folder) {
  const std::filesystem::path normal = (folder / text).lexically_normal();
  return normal.has_filename() ? normal : normal.parent_path();  // "runs/" is "runs"
}

}  // namespace

std::string quote(std::string_view text) {
  std::string out = "\"";
  for (const char c : text) {
    if (c == '"' || c == '\\') {
      out += {'\\', c};
    } else if (static_cast<unsigned char>(c) < 0x20 || c == 0x7f) {
      std::array<char, 8> escaped;
      std::snprintf(escaped.data(), escaped.size(), "\\u%04X", c);
      out += escaped.data();
    } else {
      out += c;
    }
  }
  return out + "\"";
}

std::string to_toml_number(double value) {
  if (std::isnan(value)) return "nan";
  if (std::isinf(value)) return value > 0 ? "inf" : "-inf";
  std::array<char, 32> buffer;
  const auto end =
      std::to_chars(buffer.data(), buffer.data() + buffer.size(), value, std::chars_format::general).ptr;
  const std::string text(buffer.data(), end);
  return text.find_first_of(".e") == std::string::npos ? text + ".0" : text;
}

bool Bounds::hold(double value) const {
  return (value > low || (low_taken && value == low)) && (value < high || (high_taken && value == high));
}

std::string Bounds::text() const {
  const bool has_low = std::isfinite(low), has_high = std::isfinite(high);
  if (has_low && has_high) {
    return std::string(" in ") + (low_taken ? "[" : "(") + plain(low) + ", " + plain(high) +
           (high_taken ? "]" : ")");
  }
  return has_low ? (low_taken ? " >= " : " > ") + plain(low) : "";
}

Kind<bool> boolean() {
  return {"true or false",
          [](const Item& item) -> std::optional<bool> {
            if (const auto* value = item.node.as_boolean()) return value->get();
            return item.wrong("true or false");
          },
          [](const bool& value) { return value ? "true" : "false"; }};
}

Kind<double> number(Bounds bounds) {
  const std::string type = "a number" + bounds.text();
  return {type,
          [type, bounds](const Item& item) -> std::optional<double> {
            const std::optional<double> value =
                item.node.is_number() ? item.node.value<double>() : std::nullopt;
            if (!value || !std::isfinite(*value) || !bounds.hold(*value)) return item.wrong(type);
            return *value == 0 ? 0 : *value;  // no minus zero
          },
          to_toml_number};
}

Kind<int64_t> integer64(int64_t low, int64_t high, std::string type) {
  return {type,
          [type, low, high](const Item& item) -> std::optional<int64_t> {
            const auto* value = item.node.as_integer();
            if (value == nullptr || value->get() < low || value->get() > high) return item.wrong(type);
            return value->get();
          },
          [](const int64_t& value) { return std::to_string(value); }};
}

Kind<std::string> text(std::string type) {
  return {type,
          [type](const Item& item) -> std::optional<std::string> {
            const auto* value = item.node.as_string();
            if (value == nullptr || value->get().empty()) return item.wrong(type);
            return value->get();
          },
          [](const std::string& value) { return quote(value); }};
}

Kind<std::filesystem::path> path() {
  return {"a path",
          [](const Item& item) -> std::optional<std::filesystem::path> {
            const auto* value = item.node.as_string();
            if (value == nullptr || value->get().empty()) return item.wrong("a path");
            if (has_control_characters(value->get())) return item.wrong("a path without control characters");
            return absolute_path(value->get(), item.folder);
          },
          [](const std::filesystem::path& value) { return value.empty() ? "" : quote(value.string()); }};
}

Kind<std::string> path_or(std::string word) {
  const std::string type = quote(word) + " or a path";
  return {type,
          [type, word](const Item& item) -> std::optional<std::string> {
            const auto* value = item.node.as_string();
            if (value == nullptr) return item.wrong(type);
            if (value->get().empty() || value->get() == word) return value->get();
            const std::optional<std::filesystem::path> file = path().read(item);
            return file ? std::optional<std::string>(file->string()) : std::nullopt;
          },
          [](const std::string& value) { return quote(value); }};
}

Kind<size_t> list(std::string type) {
  return {type,
          [type](const Item& item) -> std::optional<size_t> {
            if (const toml::array* array = item.node.as_array()) return array->size();
            return item.wrong(type);
          },
          [](const size_t& size) { return size == 0 ? "[]" : ""; }};
}

Kind<Length> length(LengthRule rule) {
  return {rule.type,
          [rule](const Item& item) -> std::optional<Length> {
            const auto* value = item.node.as_string();
            if (value == nullptr || value->get().size() > 40 || has_control_characters(value->get())) {
              const size_t comma = std::min(rule.type.find(','), rule.type.size());
              return item.wrong(rule.type.substr(0, comma) + " such as \"5ep\"" + rule.type.substr(comma));
            }
            Length length;
            try {
              length = parse_length(value->get());
            } catch (const Error& error) {
              return item.refuse("= " + error.summary());
            }
            if (length.unit == Unit::kTokens) return item.not_built(rule.type + " in another unit");
            const bool share = length.unit == Unit::kShare;
            if (length.is_zero() && rule.zero) return Length{};  // zero is zero, in any unit
            if (length.is_zero() || (share && !rule.share) || (length.is_time() && !rule.time)) {
              return item.wrong(rule.type);
            }
            constexpr double kMost = 1e12;  // of samples, steps or epochs: more could not be counted
            if (!length.is_time() && length.value > kMost) return item.wrong("at most 1e12");
            if (share && length.value > 1) return item.wrong("a share of at most \"1dur\"");
            return length;
          },
          [](const Length& value) { return quote(to_string(value)); }};
}

Kind<std::chrono::milliseconds> wait_time() {
  const std::string type = "a time > 0";
  return {type,
          [type](const Item& item) -> std::optional<std::chrono::milliseconds> {
            constexpr double kMostSeconds = 1e9;  // thirty years; more would overflow a clock
            const std::optional<Length> value = length({type, false}).read(item);
            if (!value) return std::nullopt;
            if (!value->is_time() || value->value < 1e-3 || value->value > kMostSeconds)
              return item.wrong(type);
            return std::chrono::milliseconds(std::llround(value->value * 1000));
          },
          [](const std::chrono::milliseconds& value) {
            return quote(to_string(Length{value.count() / 1000.0, Unit::kSeconds}));
          }};
}

Kind<std::string> choice(std::vector<std::string> values, std::vector<std::string> not_built) {
  std::vector<std::pair<std::string, std::string>> named;
  for (const std::string& value : values) named.emplace_back(value, value);
  return choice<std::string>(named, not_built);
}

std::optional<size_t> find_choice(const Item& item, const std::vector<std::string>& names,
                                  const std::vector<std::string>& not_built) {
  const auto* value = item.node.as_string();
  if (value == nullptr) return item.wrong(either(names));
  const auto built = std::find(names.begin(), names.end(), value->get());
  if (built != names.end()) return built - names.begin();

  // "last:30" is a case of "last:N".
  const auto stem = [](const std::string& word) { return word.substr(0, word.find(':')); };
  for (const std::string& word : not_built) {
    if (stem(word) == stem(value->get())) return item.not_built(either(names));
  }
  std::vector<std::string> all = names;
  all.insert(all.end(), not_built.begin(), not_built.end());
  return item.wrong(either(names), did_you_mean(value->get(), all));
}

std::string either(const std::vector<std::string>& names) {
  std::string text;
  for (size_t i = 0; i < names.size(); ++i) {
    text += (i == 0 ? "" : i + 1 == names.size() ? " or " : ", ") + quote(names[i]);
  }
  return text;
}

}  // namespace rekindle
