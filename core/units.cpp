// SPDX-License-Identifier: Apache-2.0
#include "core/units.h"

#include <array>
#include <charconv>
#include <cmath>

#include "core/error.h"

namespace rekindle {
namespace {

struct UnitName {
  std::string_view text;
  Unit unit;
  double scale;  // of the number before it
};

// The first name of a unit is the one that is written.
constexpr UnitName kUnits[] = {
    {"sp", Unit::kSamples, 1},  {"ba", Unit::kBatches, 1},   {"steps", Unit::kBatches, 1},
    {"ep", Unit::kEpochs, 1},   {"tok", Unit::kTokens, 1},   {"dur", Unit::kShare, 1},
    {"sec", Unit::kSeconds, 1}, {"min", Unit::kSeconds, 60}, {"h", Unit::kSeconds, 3600},
};

Error bad_length(std::string_view text, const std::string& reason) {
  return bad_input(
      "'" + std::string(text) + "' " + reason +
          ", expected a number and a unit: sp (samples), ba or steps (optimizer steps), ep (epochs), "
          "tok (tokens), dur (share of the run), sec, min or h",
      "", "for example \"5ep\"");
}

// "2e6" rather than "2e+06".
std::string shortest(double value) {
  std::array<char, 32> buffer;
  const auto end = std::to_chars(buffer.data(), buffer.data() + buffer.size(), value).ptr;
  std::string text(buffer.data(), end);
  const size_t exponent = text.find('e');
  if (exponent == std::string::npos) return text;
  if (text[exponent + 1] == '+') text.erase(exponent + 1, 1);
  const size_t digits = exponent + (text[exponent + 1] == '-' ? 2 : 1);
  while (text[digits] == '0') text.erase(digits, 1);
  return text;
}

}  // namespace

Length parse_length(std::string_view text) {
  double value = 0;
  const auto [rest, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error == std::errc::invalid_argument) throw bad_length(text, "has no number");
  if (error != std::errc() || !std::isfinite(value)) throw bad_length(text, "is out of range");
  if (value < 0) throw bad_length(text, "is negative");

  const std::string_view name = text.substr(rest - text.data());
  if (name.empty()) throw bad_length(text, "has no unit");
  for (const UnitName& unit : kUnits) {
    if (unit.text != name) continue;
    const Length length{std::abs(value * unit.scale), unit.unit};  // abs: "-0ep" is zero
    if (!std::isfinite(length.value)) throw bad_length(text, "is out of range");
    return length;
  }
  throw bad_length(text, "has the unknown unit '" + std::string(name) + "'");
}

std::string to_string(const Length& length) {
  const UnitName* best = nullptr;
  for (const UnitName& unit : kUnits) {
    if (unit.unit != length.unit) continue;
    const double number = length.value / unit.scale;
    const bool whole = number == std::floor(number) && number * unit.scale == length.value && number > 0;
    if (best == nullptr || (unit.scale > best->scale && whole)) best = &unit;
  }
  return shortest(length.value / best->scale) + std::string(best->text);
}

}  // namespace rekindle
