// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "checkpoints/checkpoint.h"
#include "checkpoints/optimizer_part.h"
#include "core/flat_layout.h"
#include "optimizers/optimizer.h"
#include "warmstart/load_weights.h"
#include "worker/snapshot.h"

namespace rekindle {

// The optimizer's moments between a flat line, of which each rank owns segments, and files, which name the
// parameters, so that any number of workers reads what any number wrote.

// What one rank owns, as a file takes it; views of `part`.
std::vector<ShardView> shards_of(const Snapshot::Part& part, const FlatLayout& layout,
                                 const std::vector<std::string>& moment_names);

// Throws bad_input where a checkpoint's optimizer kept other moments than these.
void check_same_rule(FileSystem& files, const Checkpoint& checkpoint, std::vector<std::string> moment_names);

// Reads what this rank owns. With `carried` the moments of a parent: of a parameter that came from it those
// that it had there, of any other zeros. Throws bad_input for files of another update rule.
void read_moments(FileSystem& files, const Checkpoint& checkpoint, const FlatLayout& layout,
                  Optimizer& optimizer, const Carried* carried = nullptr);

// Collective, where only rank 0 has the files: it reads the moments of one parameter after the other and
// sends them, and each rank keeps what it owns. `parts` is null on the others. Throws on all ranks alike.
void read_moments_together(Communicator& communicator, const OptimizerParts* parts, const FlatLayout& layout,
                           Optimizer& optimizer);

}  // namespace rekindle
