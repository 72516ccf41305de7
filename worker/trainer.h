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
#include "worker/diagnostics.h"
#include "worker/interval.h"
#include "worker/referee.h"
#include "worker/run.h"
#include "worker/running_statistics.h"

namespace rekindle {

enum class Outcome { kDone, kPreempted };

// The training loop of one rank. All calls are collective.
class Trainer {
 public:
  // `state` is where the schedule of a new run begins. Throws bad_input for a job whose parts do not fit
  // together.
  Trainer(const Run& run, Lineage lineage, ModelCard card, const ScheduleState& state = {});

  // Goes on from the run directory's newest valid checkpoint. False where there is none.
  bool resume();

  // A new run, whose weights are there: takes over what else the job wants of the parent.
  void start(const ParentFacts& parent);

  // Trains to the end of the run, or until a stop is asked for; ends with a checkpoint either way.
  Outcome train();

  // Takes `count` steps and does nothing else, for measurements: no log, evaluation or checkpoint.
  void train_steps(int64_t count);

  const Progress& progress() const { return progress_; }
  Checkpointer& checkpointer() { return checkpointer_; }
  int64_t skipped() const { return skipped_; }  // steps of the run, for on_nan = "skip"
  // Of the model that is saved and judged; and logs it. None where nothing is held out.
  std::optional<Scores> evaluate_validation();

 private:
  struct Step {  // what became of one
    double loss = 0, squared_norm = 0, lr = 0, momentum = 0;
    int64_t samples = 0;
    bool stop = false, rolled_back = false, logs = false;
    Checkpointer::Sign saving = {};
    std::optional<double> noise_scale = {};
    std::vector<std::pair<std::string, double>> update_ratios = {};  // where they are to be logged
  };

  void begin();
  void start_loader();
  void warn_of_a_jump() const;
  Step train_step();
  double momentum() const;
  void unfreeze();
  void train_share(int leaf, const std::vector<Batch>& passes, int64_t global_samples);
  at::Tensor loss_of(const Batch& batch);
  void seed_dropout(int leaf);
  void show();
  void agree(Step& step);
  bool is_good(const Step& step) const;
  void update(Step& step);
  void hold(bool averaged);
  void skip(Step& step);
  bool can_go_back();
  void roll_back(Step& step);
  std::vector<Range> unused_parameters();
  size_t first_statistic() const;               // in a row of the agreement
  bool is_end(const Progress& progress) const;  // of the run
  void log_step(const Step& step, const Progress& at);
  void log_warmup_end();
  void evaluate_and_save(const Progress& before, bool finished, bool stops);
  void hear_scores(const Scores& scores);
  void note_best(const Scores& scores);
  TrainState state() const;

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
  ScheduleState schedule_state_;
  std::optional<LossScale> loss_scale_;  // with float16
  std::optional<Best> best_;             // evaluation so far
  int64_t skipped_ = 0;                  // steps, because of NaN
  std::optional<int64_t> back_at_;       // where the last rollback of this process went
  double half_life_;                     // of averaged weights, in samples; 0: none
  bool holds_average_ = false;           // the parameters do, and the optimizer the trained weights
  std::vector<std::pair<size_t, double>> unfreeze_at_;  // parameter, and when on the schedule's clock
  std::optional<UpdateRatio> update_ratio_;

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
