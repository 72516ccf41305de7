// SPDX-License-Identifier: Apache-2.0
// From bytes to a TOML tree. What could harm the TOML parser is found before it sees it.
#pragma once

#include <filesystem>
#include <optional>
#include <string>

#include "job/mistakes.h"
#include "job/toml.h"

namespace rekindle {

// Reads and parses a job file. Nodes carry `name` as their place. Throws bad_input for a file that cannot be
// read, is too large, too deeply nested or no TOML.
toml::table parse_job_file(const std::filesystem::path& file, const std::string& name);

// Reads "section.key=value" as a tree that holds this one key; none and a mistake where it is something else.
std::optional<toml::table> parse_override(const std::string& text, Mistakes& mistakes);

// The dotted name of the one key that a parsed override sets.
std::string name_of_override(const toml::table& tree);

// Puts the one key of `from` into `into`, in the place of what is there.
void lay_over(toml::table& into, toml::table&& from);

}  // namespace rekindle
