// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <nlohmann/json.hpp>

#include <filesystem>
#include <memory>
#include <string>

#include "core/file_system.h"

namespace rekindle {

// metrics.jsonl: one object a line, written when it happens. Rank 0 has one with a file; the others' writes
// go nowhere.
class MetricsLog {
 public:
  MetricsLog() = default;
  // Goes on with what is there: a last line that a crash cut off is dropped.
  MetricsLog(FileSystem& files, const std::filesystem::path& path);

  bool goes_on() const { return goes_on_; }  // an earlier start wrote to it

  // {"event": event, ...fields}. Doubles are written so that they read back to the same bits.
  void write(const char* event, nlohmann::ordered_json fields);

 private:
  std::unique_ptr<WritableFile> file_;
  bool goes_on_ = false;
};

// Whether the log at `path` ends as that of a run that is done.
bool ends_done(FileSystem& files, const std::filesystem::path& path);

}  // namespace rekindle
