// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <filesystem>
#include <vector>

#include "core/file_system.h"

namespace rekindle {

// What a path that people give stands for: a line (what it serves), a run (its newest checkpoint), a
// checkpoint, a safetensors file, or a folder of weights (in shards or not).
struct Place {
  enum class Kind { kCheckpoint, kWeights };
  Kind kind;
  std::filesystem::path path;  // of the checkpoint's directory; or as WeightFiles takes it
};

// A folder that is a checkpoint, whole or not: by its manifest, its name or what else is in it.
bool looks_like_checkpoint(FileSystem& files, const std::filesystem::path& folder);

// Throws bad_input for a path where there is nothing, for a pickle, and for anything else.
Place locate(FileSystem& files, const std::filesystem::path& given);

// The run directories of a line, the oldest first; empty where `folder` is no line.
std::vector<std::filesystem::path> runs_in(FileSystem& files, const std::filesystem::path& folder);

// The generations of a run, the oldest first.
std::vector<std::filesystem::path> generations_in(FileSystem& files, const std::filesystem::path& run);

}  // namespace rekindle
