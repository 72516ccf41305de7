// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace rekindle {

// The candidate that is `word` but for its case, else that with the smallest edit distance to it; "" where
// none is near enough to be a slip (more than a third of the letters differ).
std::string nearest(std::string_view word, std::span<const std::string> candidates);

// "a, b and c"
std::string enumerate(std::span<const std::string> words);

// Whether all of `text` matches `pattern`: * stands for any letters, ? for one.
bool matches_glob(std::string_view pattern, std::string_view text);

std::string short_number(double value);  // four significant digits

// UTC, "2026-11-20T02-00-00Z": no colon, so that it can be a folder's name anywhere.
std::string utc_stamp(double unix_seconds);

double unix_seconds();

}  // namespace rekindle
