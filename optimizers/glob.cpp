// SPDX-License-Identifier: Apache-2.0
#include "optimizers/glob.h"

#include <fnmatch.h>

#include <string>

namespace rekindle {

bool matches_glob(std::string_view pattern, std::string_view text) {
  return fnmatch(std::string(pattern).c_str(), std::string(text).c_str(), 0) == 0;
}

}  // namespace rekindle
