// SPDX-License-Identifier: Apache-2.0
#include "worker/trainer.h"

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/Context.h>
#include <ATen/ops/full.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "core/digest.h"
#include "core/error.h"
#include "core/log.h"
#include "core/text.h"
#include "worker/stop_signal.h"

namespace rekindle {
namespace {

Timeline timeline_of(const Run& run) {
  return Timeline(static_cast<int64_t>(run.split.train.size()), run.job.batch.global);
}

double end_of(const Length& duration, const Timeline& timeline) {
  return duration.is_time() ? std::numeric_limits<double>::infinity() : timeline.samples_in(duration, 0);
}

LoaderOptions loader_options(const Run& run) {
  LoaderOptions options;
  options.seed = run.job.run.seed;
  options.shuffle = run.job.data.shuffle;
  options.rank = run.communicator.rank();
  options.world = run.communicator.world();
  options.global_batch = run.job.batch.global;
  options.microbatch = run.job.batch.microbatch;
  options.mean = run.job.data.mean;
  options.std = run.job.data.std;
  return options;
}

}  // namespace

Trainer::Trainer(const Run& run, Lineage lineage, ModelCard card)
    : run_(run),
      timeline_(timeline_of(run)),
      schedule_(run.job.schedule, timeline_, run.job.run.duration),
      reducer_(run.communicator, run.parameters),
      optimizer_(Optimizer::create(run.job.optimizer, run.parameters.layout(), run.parameters.flat(),
                                   reducer_.gradient(), reducer_.slices())),
      checkpointer_(run, *optimizer_, std::move(lineage), std::move(card)),
      end_(end_of(run.job.run.duration, timeline_)),
      log_every_(run.job.run.log_every, timeline_, run.job.run.duration),
      evaluate_every_(run.job.evaluation.every, timeline_, run.job.run.duration),
      save_every_(run.job.checkpoint.every, timeline_, run.job.run.duration),
      agreement_(at::zeros({3}, at::kDouble)) {}

bool Trainer::resume() {
  const std::optional<Progress> progress = checkpointer_.resume();
  if (progress) progress_ = *progress;
  return progress.has_value();
}

void Trainer::begin() {
  run_.model.train();
  statistics_ = std::make_unique<RunningStatistics>(run_.communicator, run_.state);
  loader_ = std::make_unique<Loader>(run_.data, run_.split.train, loader_options(run_), progress_.samples);
  started_ = std::chrono::steady_clock::now();
  seconds_before_ = progress_.seconds;
  last_logged_ = progress_;
}

void Trainer::train_steps(int64_t count) {
  if (!loader_) begin();
  for (; count > 0; --count) train_step();
}

Outcome Trainer::train() {
  begin();
  while (!is_finished()) {
    const Progress before = progress_;
    const Step step = train_step();
    const bool last = is_finished() || step.stop;
    log_step(step, before, last);
    save_and_evaluate(before, last);
    if (step.stop) return Outcome::kPreempted;
  }
  return Outcome::kDone;
}

// The way of a batch.
Trainer::Step Trainer::train_step() {
  const StepBatches batches = loader_->next();
  seed_dropout();
  reducer_.start_step(static_cast<int>(batches.micro.size()));
  Step step{0, 0, schedule_.at(progress_), false};
  for (const Batch& batch : batches.micro) {
    // Weighted by its samples, so that the sum over passes and ranks is the mean over the global batch,
    // however uneven.
    const double weight = static_cast<double>(batch.samples()) / static_cast<double>(batches.global_samples);
    const at::Tensor loss = run_.model.loss(batch);
    loss.backward(at::full({}, weight, loss.options()));
    step.loss += weight * loss.item<double>();
  }
  step.squared_norm = reducer_.finish().squared_norm;
  const std::chrono::duration<double> trained = std::chrono::steady_clock::now() - started_;
  agree(step, seconds_before_ + trained.count());
  update(step);
  statistics_->agree();
  progress_.samples += batches.global_samples;
  ++progress_.step;
  return step;
}

// So dropout depends on where it is used and not on what came before: a resumed run draws the same.
void Trainer::seed_dropout() {
  at::Generator generator = at::detail::getDefaultCPUGenerator();
  generator.set_current_seed(hash64({run_.job.run.seed, static_cast<uint64_t>(progress_.step),
                                     static_cast<uint64_t>(run_.communicator.rank())}));
}

// What all ranks must know alike before the update: the loss, whether anyone was asked to stop, and rank 0's
// clock.
void Trainer::agree(Step& step, double seconds) {
  double* agreed = agreement_.data_ptr<double>();
  agreed[0] = step.loss;
  agreed[1] = stop_requested();
  agreed[2] = run_.is_root() ? seconds : 0;
  run_.communicator.all_reduce(agreement_, Communicator::Op::kSum, "agreement");
  step.loss = agreed[0];
  step.stop = agreed[1] > 0;
  progress_.seconds = agreed[2];
}

void Trainer::update(const Step& step) {
  const double most = run_.job.optimizer.max_grad_norm, norm = std::sqrt(step.squared_norm);
  if (std::isfinite(norm) && std::isfinite(step.loss)) {
    const double divisor = most > 0 ? std::max(1.0, (norm + 1e-6) / most) : 1;  // as torch's clip_grad_norm_
    optimizer_->step(step.lr, divisor);
  } else if (run_.job.run.on_nan == OnNan::kStop) {
    throw AgreedError(Error("loss or gradient is not finite at step " + std::to_string(progress_.step),
                            {"",
                             "lower schedule.base_lr, warm up longer or set optimizer.max_grad_norm; "
                             "run.on_nan = \"skip\" leaves such steps out",
                             ExitCode::kFailed}));
  } else {
    ++skipped_;
    if (run_.is_root()) log_warning("step " + std::to_string(progress_.step) + " skipped: not finite");
  }
  for (auto bucket = reducer_.buckets().rbegin(); bucket != reducer_.buckets().rend(); ++bucket) {
    run_.communicator.all_gather(run_.parameters.flat(), *bucket, "updated parameters");
  }
}

bool Trainer::is_finished() const {
  if (run_.job.run.duration.is_time()) return progress_.seconds >= run_.job.run.duration.value;
  return static_cast<double>(progress_.samples) >= end_;
}

void Trainer::log_step(const Step& step, const Progress& at, bool last) {
  const bool due = first_ || last || log_every_.due(at, progress_);
  first_ = false;
  if (!due) return;
  const double seconds = progress_.seconds - last_logged_.seconds;
  const auto samples = static_cast<double>(progress_.samples - last_logged_.samples);
  last_logged_ = progress_;
  run_.metrics.write(
      "step", {{"step", at.step},
               {"samples", at.samples},
               {"epoch", static_cast<double>(at.samples) / static_cast<double>(timeline_.epoch_samples())},
               {"loss", step.loss},
               {"lr", step.lr},
               {"grad_norm", std::sqrt(step.squared_norm)},
               {"samples_per_second", seconds > 0 ? samples / seconds : 0.0},
               {"time", unix_seconds()}});
}

void Trainer::save_and_evaluate(const Progress& before, bool last) {
  const bool evaluates = last || evaluate_every_.due(before, progress_);
  const bool saves = last || save_every_.due(before, progress_);
  if (!evaluates && !saves) return;
  if (saves) checkpointer_.save(progress_);
  if (evaluates) evaluate_validation();
  run_.model.train();
}

std::optional<Scores> Trainer::evaluate_validation() {
  if (run_.split.validation.empty()) return std::nullopt;
  Scores scores =
      evaluate(run_.communicator, run_.model, run_.data, run_.split.validation, run_.evaluate_options());
  log_scores(run_, "validation", "child", scores, progress_);
  return scores;
}

}  // namespace rekindle
