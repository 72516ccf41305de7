// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <filesystem>
#include <map>
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

// Throws bad_input where the update rule of a checkpoint's optimizer kept other moments than these, or where
// it has no averaged weights.
void check_same_rule(FileSystem& files, const Checkpoint& checkpoint, std::vector<std::string> moment_names);
void check_has_average(FileSystem& files, const Checkpoint& checkpoint);

// Reads what this rank owns. Throws bad_input for files of another update rule.
void read_moments(FileSystem& files, const Checkpoint& checkpoint, const FlatLayout& layout,
                  Optimizer& optimizer);

// The same of a parent, those of the moments that are `wanted`: of a parameter that came from it what it had
// there; of any other, and of what the parent did not train, they stay as they are.
void inherit_moments(FileSystem& files, const Checkpoint& parent, const FlatLayout& layout,
                     Optimizer& optimizer, const Carried& carried, const std::vector<std::string>& wanted);

// The steps that a child's parameters have missed of its parent's: all of them where their moments start
// fresh.
std::map<std::string, int64_t> missed_steps(const OptimizerParts& parts, const TrainState& parent,
                                            const FlatLayout& layout, const Carried& carried);

// Collective, where only rank 0 has the files: it reads the moments of one parameter after the other and
// sends them, and each rank keeps what it owns. `parts` is null on the others. Throws on all ranks alike.
void read_moments_together(Communicator& communicator, const OptimizerParts* parts, const FlatLayout& layout,
                           Optimizer& optimizer);

}  // namespace rekindle
