// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "checkpoints/checkpoint.h"
#include "checkpoints/options.h"

namespace rekindle {

// A checkpoint that now stands under its final name.
struct Published {
  std::filesystem::path path;
  std::string digest;
  uint64_t bytes = 0;     // of all its files
  std::string complaint;  // why older ones could not be pruned; usually empty
};

// The generations of one run: step-N directories, and the link `latest`. It never communicates. A save goes
//   rank 0: prepare → all ranks: write and sync their files into temporary() → rank 0: publish, or discard
// and whoever runs the loop carries the ranks' records to rank 0. `attempt` tells the starts of a run apart:
// letters, digits, - and _. All but temporary() is for rank 0 alone, one thread at a time, while it holds the
// run's lock.
class CheckpointStore {
 public:
  // `directory` is the run's `checkpoints`; made when it is first needed.
  CheckpointStore(FileSystem& files, std::filesystem::path directory, CheckpointOptions options);

  std::filesystem::path temporary(int64_t step, const std::string& attempt) const;

  // Makes the temporary directory, empty, and sweeps what other attempts left unfinished.
  std::filesystem::path prepare(int64_t step, const std::string& attempt);

  // Seals the temporary directory and gives it its final name, in this order: manifest, synced; directory
  // synced; read back from the disk (options.verify); a step-N that stands already is put aside; rename;
  // parent synced; `latest` moved, and `best` where it is the best so far; older generations pruned. On an
  // error before the rename the temporary directory is gone, after it the checkpoint stands; nothing is tried
  // twice, because a disk that failed once may claim success the second time.
  Published publish(int64_t step, const std::string& attempt, std::vector<FileRecord> records,
                    bool best = false);

  // Gives a save up. Never throws: what cannot be removed is swept by a later attempt.
  void discard(int64_t step, const std::string& attempt) noexcept;

  // The newest generation that verifies completely; for each that does not, a complaint that says why.
  // Where none stands, one that was put aside and verifies: the machine may have failed between two renames.
  std::optional<Checkpoint> newest_valid(std::vector<std::string>* complaints = nullptr);

  // Sets `latest` and `best` to what a resumed run says that they are: the one that saved may have ended
  // before it had moved them. One that no longer stands is left as it is.
  void mend_links(int64_t latest, std::optional<int64_t> best);

  // Removes the generations from `step` on, for a run that goes back behind them, and those before it that
  // are damaged, down to the newest that verifies. Returns its step; none, and nothing is touched, where
  // there is no such.
  std::optional<int64_t> drop_from(int64_t step);

  void protect(int64_t step) { protected_.insert(step); }  // never pruned

 private:
  void seal(const std::filesystem::path& temporary, const Manifest& manifest);
  void put_aside(int64_t step, const std::string& attempt);
  void take_back(int64_t step, const std::string& attempt) noexcept;
  void prune(int64_t newest, const std::string& attempt);
  std::set<int64_t> kept(int64_t newest);
  std::vector<int64_t> generations();  // ascending

  FileSystem& files_;
  std::filesystem::path directory_;
  CheckpointOptions options_;
  std::set<int64_t> protected_;
};

}  // namespace rekindle
