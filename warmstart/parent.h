// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <filesystem>
#include <optional>
#include <string>

#include "checkpoints/checkpoint.h"
#include "core/file_system.h"
#include "warmstart/load_weights.h"

namespace rekindle {

// What `warm_start.from` resolves to: the model that a child starts from, or is compared with.
struct Parent {
  WeightSource source;
  std::string digest;                    // of the checkpoint; of the weights where they are bare
  std::optional<Checkpoint> checkpoint;  // none for weights from elsewhere
  Origin origin;                         // of weights from elsewhere
};

// Resolves `from`: "promoted" of `line`, a line, a run directory (its latest checkpoint), a checkpoint, a
// safetensors file, or a folder of weights (as Hugging Face lays it out, in shards or not). None where it
// says "promoted" and nothing has been promoted yet. Relative paths count from the working directory. Of a
// checkpoint everything is verified but the digests of the weights, which load_weights takes while it reads
// them, and of the optimizer's state, unless `with_optimizer`. Throws bad_input for anything else. For one
// rank alone.
std::optional<Parent> find_parent(FileSystem& files, const std::string& from,
                                  const std::filesystem::path& line, bool with_optimizer = false);

}  // namespace rekindle
