// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <chrono>
#include <exception>
#include <future>
#include <optional>
#include <string>
#include <vector>

#include "checkpoints/store.h"
#include "optimizers/optimizer.h"
#include "warmstart/load_weights.h"
#include "worker/run.h"
#include "worker/snapshot.h"

namespace rekindle {

// Carries a run's state to its checkpoints and back. Every rank writes the optimizer state that it owns, rank
// 0 the rest, and rank 0 publishes once all have said that theirs is on the disk.
//
// The training pays for a copy of the state in memory that was touched beforehand; a thread of each rank
// writes from there. That thread never communicates: what became of its part is a Sign, which rides on the
// agreement that every step makes anyway. One save is under way at a time; the next one waits for it.
//
// All calls but sign() are collective.
class Checkpointer {
 public:
  // Of the save that is under way: what this rank knows of it. Added over the ranks it tells how it stands.
  struct Sign {
    double written = 0;    // this rank's part is on the disk
    double failed = 0;     // or it cannot be, or the whole cannot be published
    double published = 0;  // rank 0: the checkpoint stands
  };

  // `lineage` is what stays the same over the run, with the increments that its weights were trained on
  // before it; `card` describes model and data.
  Checkpointer(const Run& run, Optimizer& optimizer, Lineage lineage, ModelCard card);
  ~Checkpointer();
  Checkpointer(const Checkpointer&) = delete;
  Checkpointer& operator=(const Checkpointer&) = delete;

  // Takes the memory that saves are copied to, on a thread of its own; else the first save does.
  void reserve();

  // Starts to save; what `state` lacks of the run is filled in. Where its best evaluation was made at this
  // step, the link `best` will name this checkpoint. Throws AgreedError where the save before, or this one
  // already, failed on any rank; the generations before stay as they are.
  void save(TrainState state);

  Sign sign();

  // Goes on with the save that is under way, as far as all ranks are; `sum` is that of sign() over all of
  // them. Throws AgreedError where it failed.
  void advance(const Sign& sum);

  // Waits until nothing is under way.
  void finish();

  // Forgets the checkpoints from `step` on, once nothing is under way. The step of the newest before; none,
  // and nothing is forgotten, where there is none.
  std::optional<int64_t> drop_from(int64_t step);

  // Loads the newest checkpoint of the run directory that verifies, and says in the log what was wrong with
  // newer ones. None where there is no checkpoint at all. Throws bad_input where the data are no longer those
  // it was trained on.
  std::optional<TrainState> resume();

  // Takes over from a parent's checkpoint what the job wants of the optimizer's state and of averaged
  // weights, for the parameters that load_weights() has loaded from it; of the others it starts fresh. Throws
  // bad_input for a parent of another update rule, or without averaged weights.
  void inherit_moments(const std::filesystem::path& parent, const HeadClasses& classes);

  const std::optional<Published>& latest() const { return latest_; }  // published or resumed from

 private:
  enum class Phase { kIdle, kWriting, kPublishing };

  bool gathers() const { return run_.job.checkpoint.gather && run_.communicator.world() > 1; }
  void learn_segments();
  void take_snapshot();
  std::vector<FileRecord> write_part(const std::filesystem::path& directory, const TrainState& state) const;
  void publish_when_written(const Sign& sum);
  void end_save();
  bool wait_a_while();  // whether this rank has nothing under way then
  [[noreturn]] void give_up();
  std::vector<FileRecord> gather(const std::vector<FileRecord>& mine);
  std::vector<IncrementRecord> count_seen(const Progress& progress) const;
  void check_data(const Checkpoint& checkpoint) const;
  TrainState read_checkpoint(const std::string& path, WeightSource& weights);

  const Run& run_;
  Optimizer& optimizer_;
  CheckpointStore store_;
  Lineage lineage_;
  std::vector<IncrementRecord> inherited_;
  ModelCard card_;
  std::string attempt_;  // tells the starts of this run apart
  std::vector<WorldSpan> worlds_;
  Snapshot::Owned gathered_;  // where rank 0 gathers: what each rank owns
  std::optional<Published> latest_;

  std::future<Snapshot> room_;  // being taken
  Snapshot snapshot_;

  // Of the save that is under way.
  Phase phase_ = Phase::kIdle;
  TrainState state_;
  std::chrono::steady_clock::time_point began_;
  double stall_ms_ = 0;
  std::future<std::vector<FileRecord>> writing_;
  std::future<Published> publishing_;  // on rank 0
  std::vector<FileRecord> records_;    // of this rank's part
  bool written_ = false;
  std::optional<Published> published_;
  std::exception_ptr failure_;
};

}  // namespace rekindle
