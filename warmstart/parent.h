// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <filesystem>
#include <optional>
#include <string>

#include "checkpoints/checkpoint.h"
#include "core/file_system.h"

namespace rekindle {

// What `warm_start.from` resolves to: the model that a child starts from, or is compared with.
struct Parent {
  std::filesystem::path weights;         // its model.safetensors
  std::string digest;                    // of the checkpoint; of the file where it is a bare one
  std::optional<Checkpoint> checkpoint;  // none for weights from elsewhere, of which nothing more is known
};

// Resolves and verifies `from`: "promoted" of `line`, a line, a run directory (its latest checkpoint), a
// checkpoint, a safetensors file, or a folder with model.safetensors (as Hugging Face lays it out). None
// where it says "promoted" and nothing has been promoted yet. Relative paths count from the working
// directory. Throws bad_input for anything else. For one rank alone.
std::optional<Parent> find_parent(FileSystem& files, const std::string& from,
                                  const std::filesystem::path& line);

}  // namespace rekindle
