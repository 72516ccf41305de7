// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace rekindle {

enum class Unit { kSamples, kBatches, kEpochs, kTokens, kShare, kSeconds };

// A length of training as people write it: "5ep", "1200ba" (or "1200steps"), "2e6sp", "0.06dur", "30min".
// Units: sp samples, ba and steps optimizer steps, ep epochs, tok tokens, dur share of the run,
// sec, min and h time.
struct Length {
  double value = 0;
  Unit unit = Unit::kSamples;

  bool is_time() const { return unit == Unit::kSeconds; }
  bool is_zero() const { return value == 0; }
  bool operator==(const Length&) const = default;
};

// Throws bad_input for anything else than a finite number >= 0 with one of the units above.
Length parse_length(std::string_view text);

// The shortest text that parses to the same length; time as "min" or "h" where that is whole.
std::string to_string(const Length& length);

}  // namespace rekindle
