// SPDX-License-Identifier: Apache-2.0
#include "worker/trainer.h"

#include <ATen/Context.h>
#include <ATen/ops/full.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "core/digest.h"
#include "core/error.h"
#include "core/log.h"
#include "core/text.h"
#include "worker/preflight.h"
#include "worker/stop_signal.h"

namespace rekindle {
namespace {

// What a row of the agreement holds: these, a flag for each parameter, and what the buffers changed by.
enum : size_t { kLoss, kStop, kSeconds, kWritten, kSaveFailed, kPublished, kFirstParameter };

Timeline timeline_of(const Run& run) {
  return Timeline(static_cast<int64_t>(run.split.train.size()), run.job.batch.global);
}

double end_of(const Length& duration, const Timeline& timeline) {
  return duration.is_time() ? std::numeric_limits<double>::infinity() : timeline.samples_in(duration, 0);
}

SumPlan plan_of(const Run& run) {
  const int world = run.communicator.world();
  return run.job.run.reproducible == Reproducible::kAnyWorld
             ? SumPlan::along_tree(virtual_workers(run.job, world), world)
             : SumPlan::in_order_of_ranks(world);
}

ReducerOptions reducer_options(const Run& run, const SumPlan& plan) {
  const int64_t most = run.job.batch.microbatch, least = least_samples(run.model);
  ReducerOptions options;
  options.several_passes = false;
  for (int64_t batch = 1; batch <= run.job.batch.global; ++batch) {
    const int64_t working = std::clamp<int64_t>(batch / least, 1, plan.leaves());
    options.several_passes |= most > 0 && (batch + working - 1) / working > most;
  }
  return options;
}

// So few that waking a thread for them, which may take the processor from a rank that others wait for, costs
// more than building the step when it is due.
bool builds_quickly(const Run& run) {
  constexpr int64_t kLittle = 512 << 10;
  const bool integers = run.data.element() == Element::kInteger;
  const int64_t number = static_cast<int64_t>(integers ? sizeof(int64_t) : sizeof(float));
  const int64_t sample = run.data.shape().features() * number;
  return sample * run.job.batch.global <= kLittle * run.communicator.world();
}

LoaderOptions loader_options(const Run& run) {
  LoaderOptions options;
  options.seed = run.job.run.seed;
  options.shuffle = run.job.data.shuffle;
  options.rank = run.communicator.rank();
  options.world = run.communicator.world();
  options.global_batch = run.job.batch.global;
  options.virtual_workers = virtual_workers(run.job, options.world);
  options.least_samples = least_samples(run.model);
  options.microbatch = run.job.batch.microbatch;
  options.mean = run.job.data.mean;
  options.std = run.job.data.std;
  options.augment = run.job.data.augment;
  if (builds_quickly(run)) options.depth = 0;
  return options;
}

}  // namespace

Trainer::Trainer(const Run& run, Lineage lineage, ModelCard card)
    : run_(run),
      timeline_(timeline_of(run)),
      schedule_(schedule_of(run.job, timeline_)),
      plan_(plan_of(run)),
      reducer_(run.communicator, run.parameters, plan_, reducer_options(run, plan_)),
      optimizer_(Optimizer::create(optimizer_of(run.job, schedule_), run.parameters.layout(),
                                   run.parameters.flat(), reducer_.gradient(), reducer_.slices())),
      checkpointer_(run, *optimizer_, std::move(lineage), std::move(card)),
      end_(end_of(run.job.run.duration, timeline_)),
      log_every_(run.job.run.log_every, timeline_, run.job.run.duration),
      evaluate_every_(run.job.evaluation.every, timeline_, run.job.run.duration),
      save_every_(run.job.checkpoint.every, timeline_, run.job.run.duration),
      check_every_(run.job.run.check_every, timeline_, run.job.run.duration) {}

bool Trainer::resume() {
  const std::optional<TrainState> state = checkpointer_.resume();
  if (!state) return false;
  progress_ = state->progress;
  best_ = state->best;
  return true;
}

void Trainer::begin() {
  run_.model.train();
  statistics_ = std::make_unique<RunningStatistics>(run_.state);
  if (!run_.job.run.check_every.is_zero())
    guard_ = std::make_unique<DesyncGuard>(run_.communicator, run_.state);
  agreement_ = std::make_unique<LeafValues>(run_.communicator.host(), plan_,
                                            static_cast<int64_t>(first_statistic()) + statistics_->size());
  if (guard_) guard_->check(progress_.step);
  if (run_.is_root()) {
    log_info(std::to_string(run_.parameters.layout().elements()) +
             " parameters to train, whose gradients travel in " + std::to_string(reducer_.buckets().size()) +
             (reducer_.buckets().size() == 1 ? " bucket" : " buckets"));
  }
  if (run_.is_root() && warms_up_long(run_.job, schedule_))
    log_warning(
        "the warm-up takes more than half of the run; schedule.long_warmup = true says that this is meant");
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
  checkpointer_.reserve();
  begin();
  while (!is_finished()) {
    const Progress before = progress_;
    const Step step = train_step();
    const bool last = is_finished() || step.stop;
    log_step(step, before, last);
    checkpointer_.advance(step.saving);
    evaluate_and_save(before, is_finished(), step.stop);
    if (step.stop) return Outcome::kPreempted;
  }
  return Outcome::kDone;
}

// The way of a batch.
Trainer::Step Trainer::train_step() {
  const StepBatches batches = loader_->next();
  Step step{0, 0, schedule_.at(progress_), false, {}};
  reducer_.start_step();
  int leaf = plan_.first_leaf(run_.communicator.rank());
  for (const std::vector<Batch>& passes : batches.shares) {
    train_share(leaf++, passes, batches.global_samples);
  }
  reducer_.end_passes();
  show();
  step.squared_norm = reducer_.finish().squared_norm;
  agree(step);
  update(step);
  progress_.samples += batches.global_samples;
  ++progress_.step;
  return step;
}

// Forward and backward of one virtual worker; a rank is one itself, but for any-world.
void Trainer::train_share(int leaf, const std::vector<Batch>& passes, int64_t global_samples) {
  reducer_.start_leaf(static_cast<int>(passes.size()));
  seed_dropout(leaf);
  const std::span<double> row = agreement_->row(leaf);
  std::fill(row.begin(), row.end(), 0.0);
  for (const Batch& given : passes) {
    statistics_->reset();
    const Batch batch = given.to(run_.communicator.device());
    // Weighted by its samples, so that the sum over passes and ranks is the mean over the global batch,
    // however uneven.
    const double weight = static_cast<double>(batch.samples()) / static_cast<double>(global_samples);
    const at::Tensor mean = run_.model.loss(batch);
    mean.backward(at::full({}, weight, mean.options()));
    row[kLoss] += weight * mean.item<double>();
    statistics_->add_change(weight, row.subspan(first_statistic()));
  }
}

// So dropout depends on where it is used and not on what came before: a resumed run draws the same.
void Trainer::seed_dropout(int leaf) {
  const uint64_t seed =
      hash64({run_.job.run.seed, static_cast<uint64_t>(progress_.step), static_cast<uint64_t>(leaf)});
  for (const at::Device device : {at::Device(at::kCPU), run_.communicator.device()}) {
    at::Generator generator = at::globalContext().defaultGenerator(device);
    generator.set_current_seed(seed);
  }
}

// What all ranks must know alike before the update: the loss, whether anyone was asked to stop, rank 0's
// clock, how far a save is, and which parameters are used.
void Trainer::show() {
  const std::span<double> row = agreement_->row(plan_.first_leaf(run_.communicator.rank()));
  row[kStop] = stop_requested();
  const std::chrono::duration<double> trained = std::chrono::steady_clock::now() - started_;
  row[kSeconds] = run_.is_root() ? seconds_before_ + trained.count() : 0;
  const Checkpointer::Sign saving = checkpointer_.sign();
  row[kWritten] = saving.written;
  row[kSaveFailed] = saving.failed;
  row[kPublished] = saving.published;
  for (size_t i = 0; i < run_.parameters.parameters().size(); ++i)
    row[kFirstParameter + i] = reducer_.is_used(i);
  agreement_->exchange();
}

void Trainer::agree(Step& step) {
  agreed_ = agreement_->sums();
  step.loss = agreed_[kLoss];
  step.stop = agreed_[kStop] > 0;
  step.saving = {agreed_[kWritten], agreed_[kSaveFailed], agreed_[kPublished]};
  progress_.seconds = agreed_[kSeconds];
}

void Trainer::update(const Step& step) {
  const double most = run_.job.optimizer.max_grad_norm, norm = std::sqrt(step.squared_norm);
  if (!std::isfinite(norm) || !std::isfinite(step.loss)) return skip();
  const double divisor = most > 0 ? std::max(1.0, (norm + 1e-6) / most) : 1;  // as torch's clip_grad_norm_
  optimizer_->start_step(step.lr, divisor, unused_parameters());
  if (optimizer_->looks_at_norms()) {
    optimizer_->measure();
    run_.communicator.host().all_reduce(optimizer_->squares(), Communicator::Op::kSum,
                                        "norms of the parameters");
  }
  // In the order of the next forward pass.
  for (size_t bucket = reducer_.buckets().size(); bucket-- > 0;) {
    optimizer_->update(bucket);
    run_.communicator.all_gather(run_.parameters.flat(), reducer_.buckets()[bucket], kBlock);
  }
  run_.communicator.join("updated parameters");
  std::vector<std::span<const double>> changes;
  for (int leaf = 0; leaf < plan_.leaves(); ++leaf) {
    changes.push_back(agreement_->shown(leaf).subspan(first_statistic()));
  }
  statistics_->apply(agreed_.subspan(first_statistic()), changes);
}

void Trainer::skip() {
  if (run_.job.run.on_nan == OnNan::kStop) {
    throw AgreedError(Error("loss or gradient is not finite at step " + std::to_string(progress_.step),
                            {"",
                             "lower schedule.base_lr, warm up longer or set optimizer.max_grad_norm; "
                             "run.on_nan = \"skip\" leaves such steps out",
                             ExitCode::kFailed}));
  }
  statistics_->reset();
  ++skipped_;
  if (run_.is_root()) log_warning("step " + std::to_string(progress_.step) + " skipped: not finite");
}

// What no rank gave a gradient for: it must not decay. Each with the padding behind it, so that the kernels
// see whole blocks.
std::vector<Range> Trainer::unused_parameters() {
  const auto& entries = run_.parameters.layout().entries();
  std::vector<Range> unused;
  std::vector<std::string> names;
  for (size_t i = 0; i < entries.size(); ++i) {
    if (agreed_[kFirstParameter + i] > 0) continue;
    const bool last = i + 1 == entries.size();
    unused.push_back(
        {entries[i].range.begin, last ? run_.parameters.layout().size() : entries[i + 1].range.begin});
    names.push_back("'" + entries[i].name + "'");
  }
  if (!names.empty() && !named_unused_ && run_.is_root()) {
    log_warning("the loss does not depend on " + enumerate(names) + ": left as they are");
  }
  named_unused_ |= !names.empty();
  return unused;
}

size_t Trainer::first_statistic() const {
  return kFirstParameter + run_.parameters.parameters().size();
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

// Who is asked to stop may be given half a minute: it saves and evaluates nothing that is not due, so that a
// run that goes on has the same `best` as one that was left alone.
void Trainer::evaluate_and_save(const Progress& before, bool finished, bool stops) {
  const bool evaluates = finished || evaluate_every_.due(before, progress_);
  const bool due = finished || save_every_.due(before, progress_), saves = due || stops;
  if (guard_ && (saves || check_every_.due(before, progress_))) guard_->check(progress_.step);
  if (evaluates) {
    const std::optional<Scores> scores = evaluate_validation();
    if (scores && due) note_best(*scores);  // the best of those that can be gone back to
    run_.model.train();
  }
  if (saves) checkpointer_.save(progress_, best_);
  if (finished || stops) checkpointer_.finish();
}

void Trainer::note_best(const Scores& scores) {
  const std::string metric = run_.job.verdict.value_or(VerdictOptions{}).metric;
  const double score = metric == "loss" ? -scores.mean_loss() : scores.accuracy();
  if (!std::isfinite(score)) return;
  if (!best_ || score > best_->score) best_ = Best{score, progress_.step};
}

std::optional<Scores> Trainer::evaluate_validation() {
  if (run_.split.validation.empty()) return std::nullopt;
  Scores scores =
      evaluate(run_.communicator, run_.model, run_.data, run_.split.validation, run_.evaluate_options());
  log_scores(run_, "validation", "child", scores, progress_);
  return scores;
}

}  // namespace rekindle
