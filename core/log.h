// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <filesystem>
#include <string>

namespace rekindle {

struct LogOptions {
  int rank = 0, world = 1;
  std::filesystem::path file;  // of this rank; empty: none yet
};

// Sets up spdlog: one line an event, with time, level and rank. Rank 0 speaks on standard error, the others
// only from warnings on; each rank writes everything to its own file. May be called again once the file is
// known.
void start_log(const LogOptions& options);

// spdlog stays behind these: LibTorch brings an fmt of its own, and one file cannot include both.
void log_info(const std::string& text);
void log_warning(const std::string& text);
void log_error(const std::string& text);

}  // namespace rekindle
