// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <vector>

namespace rekindle {

// Rows of texts as columns that line up; the first row is the heading. Columns whose cells begin with a digit
// or a sign, but for the heading, stand to the right.
std::string table(const std::vector<std::vector<std::string>>& rows);

// 1,234,567 and 12.3 MB: numbers as people read them.
std::string grouped(int64_t number);
std::string bytes_text(uint64_t bytes);

}  // namespace rekindle
