// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "checkpoints/store.h"
#include "optimizers/optimizer.h"
#include "worker/run.h"

namespace rekindle {

// Carries a run's state to its checkpoints and back. Every rank writes the optimizer state that it owns, rank
// 0 the rest, and rank 0 publishes once all have said that theirs is on the disk. All calls are collective.
class Checkpointer {
 public:
  // `lineage` is what stays the same over the run, with the increments that its weights were trained on
  // before it; `card` describes model and data.
  Checkpointer(const Run& run, Optimizer& optimizer, Lineage lineage, ModelCard card);

  // Throws AgreedError where any rank failed; the generations before stay as they are.
  const Published& save(const Progress& progress);

  // Loads the newest checkpoint of the run directory that verifies, and says in the log what was wrong with
  // newer ones. None where there is no checkpoint at all. Throws bad_input where the data are no longer those
  // it was trained on.
  std::optional<Progress> resume();

  const std::optional<Published>& latest() const { return latest_; }  // saved or resumed from

 private:
  std::vector<FileRecord> write_part(const std::filesystem::path& directory, const TrainState& state);
  std::vector<FileRecord> gather(const std::vector<FileRecord>& mine);
  std::vector<IncrementRecord> count_seen(const Progress& progress) const;
  void check_data(const Checkpoint& checkpoint) const;
  void read_moments(const Checkpoint& checkpoint);

  const Run& run_;
  Optimizer& optimizer_;
  CheckpointStore store_;
  Lineage lineage_;
  std::vector<IncrementRecord> inherited_;
  ModelCard card_;
  std::string attempt_;  // tells the starts of this run apart
  std::vector<WorldSpan> worlds_;
  std::optional<Published> latest_;
};

}  // namespace rekindle
