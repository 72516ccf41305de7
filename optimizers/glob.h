// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string_view>

namespace rekindle {

// Whether all of `text` matches `pattern`: * stands for any letters, ? for one.
bool matches_glob(std::string_view pattern, std::string_view text);

}  // namespace rekindle
