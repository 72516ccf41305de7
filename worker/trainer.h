// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>

#include "comm/gradient_reducer.h"
#include "comm/leaf_values.h"
#include "data/loader.h"
#include "optimizers/optimizer.h"
#include "schedules/schedule.h"
#include "worker/checkpointer.h"
#include "worker/desync_guard.h"
#include "worker/interval.h"
#include "worker/run.h"
#include "worker/running_statistics.h"

namespace rekindle {

enum class Outcome { kDone, kPreempted };

// The training loop of one rank. All calls are collective.
class Trainer {
 public:
  // Throws bad_input for a job whose parts do not fit together.
  Trainer(const Run& run, Lineage lineage, ModelCard card);

  // Goes on from the run directory's newest valid checkpoint. False where there is none.
  bool resume();

  // Trains to the end of the run, or until a stop is asked for; ends with a checkpoint either way.
  Outcome train();

  // Takes `count` steps and does nothing else, for measurements: no log, evaluation or checkpoint.
  void train_steps(int64_t count);

  const Progress& progress() const { return progress_; }
  Checkpointer& checkpointer() { return checkpointer_; }
  int64_t skipped() const { return skipped_; }  // updates of this process, for on_nan = "skip"
  std::optional<Scores> evaluate_validation();  // and logs it; none where nothing is held out

 private:
  struct Step {  // what became of one
    double loss, squared_norm, lr;
    bool stop;
    Checkpointer::Sign saving;
  };

  void begin();
  Step train_step();
  void train_share(int leaf, const std::vector<Batch>& passes, int64_t global_samples);
  void seed_dropout(int leaf);
  void show();
  void agree(Step& step);
  void update(const Step& step);
  void skip();
  std::vector<Range> unused_parameters();
  size_t first_statistic() const;  // in a row of the agreement
  bool is_finished() const;
  void log_step(const Step& step, const Progress& at, bool last);
  void evaluate_and_save(const Progress& before, bool finished, bool stops);
  void note_best(const Scores& scores);

  const Run& run_;
  Timeline timeline_;
  Schedule schedule_;
  const SumPlan plan_;
  GradientReducer reducer_;
  std::unique_ptr<Optimizer> optimizer_;
  Checkpointer checkpointer_;
  double end_;  // of the run, in samples; endless where it ends by time
  Interval log_every_, evaluate_every_, save_every_, check_every_;
  Progress progress_;
  std::optional<Best> best_;  // evaluation so far
  int64_t skipped_ = 0;       // updates, because of NaN

  // From the first step on.
  std::unique_ptr<RunningStatistics> statistics_;
  std::unique_ptr<DesyncGuard> guard_;     // none where check_every is 0
  std::unique_ptr<LeafValues> agreement_;  // what all ranks must know alike of a step
  std::span<const double> agreed_;         // its sums over all virtual workers, of the step that runs
  bool named_unused_ = false;
  std::unique_ptr<Loader> loader_;
  std::chrono::steady_clock::time_point started_;
  double seconds_before_ = 0;  // of training, before this process
  Progress last_logged_;
  bool first_ = true;
};

}  // namespace rekindle
