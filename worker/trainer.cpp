// SPDX-License-Identifier: Apache-2.0
#include "worker/trainer.h"

#include <ATen/Context.h>
#include <ATen/ops/full.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <numbers>

#include "core/digest.h"
#include "core/error.h"
#include "core/log.h"
#include "core/text.h"
#include "worker/precision.h"
#include "worker/preflight.h"
#include "worker/stop_signal.h"
#include "worker/update.h"

namespace rekindle {
namespace {

// What a row of the agreement holds: these, a flag for each parameter, and what the buffers changed by.
enum : size_t {
  kLoss,
  kStop,
  kSeconds,
  kWritten,
  kSaveFailed,
  kPublished,
  kPassSquares,
  kPassInverses,
  kPasses,
  kFirstParameter
};

bool measures_noise(const Job& job) {
  return job.run.diagnostics.noise_scale || job.schedule.warmup_until == WarmupUntil::kNoiseScale;
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
  options.measures_passes = measures_noise(run.job);
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
  options.ramp = ramp_of(run.job, static_cast<int64_t>(run.split.train.size()));
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

Trainer::Trainer(const Run& run, Lineage lineage, ModelCard card, const ScheduleState& state)
    : run_(run),
      timeline_(timeline_of(run.job, static_cast<int64_t>(run.split.train.size()))),
      schedule_(schedule_of(run.job, timeline_, state)),
      plan_(plan_of(run)),
      reducer_(run.communicator, run.parameters, plan_, reducer_options(run, plan_)),
      optimizer_(Optimizer::create(optimizer_of(run.job, schedule_), run.parameters.layout(),
                                   run.parameters.flat(), reducer_.gradient(), reducer_.slices())),
      checkpointer_(run, *optimizer_, std::move(lineage), std::move(card)),
      end_(end_of(run.job.run.duration, timeline_)),
      log_every_(run.job.run.log_every, timeline_, run.job.run.duration),
      evaluate_every_(run.job.evaluation.every, timeline_, run.job.run.duration),
      save_every_(run.job.checkpoint.every, timeline_, run.job.run.duration),
      check_every_(run.job.run.check_every, timeline_, run.job.run.duration),
      schedule_state_(state),
      half_life_(half_life_of(run.job, timeline_)) {
  if (run.job.run.precision == Precision::kFloat16) loss_scale_.emplace();
  if (run.job.run.diagnostics.update_ratio)
    update_ratio_.emplace(run.communicator, run.parameters.layout(), run.job.optimizer);
  const auto& parameters = run.parameters.parameters();
  for (size_t i = 0; i < parameters.size(); ++i) {
    const GroupOptions* const group = group_of(run.job.optimizer, parameters[i].first);
    if (group != nullptr && !group->unfreeze_at.is_zero())
      unfreeze_at_.emplace_back(
          i, schedule_.clock(group->unfreeze_at, timeline_, "optimizer.groups.unfreeze_at"));
  }
}

bool Trainer::resume() {
  const std::optional<TrainState> state = checkpointer_.resume();
  if (!state) return false;
  progress_ = state->progress;
  best_ = state->best;
  schedule_state_ = schedule_state_of(*state);
  skipped_ = state->skipped_steps;
  if (loss_scale_ && state->loss_scale) loss_scale_ = state->loss_scale;
  holds_average_ = state->averaged;
  together(run_.communicator, "schedule", [&] {
    schedule_ = schedule_of(run_.job, timeline_, schedule_state_);
    check_rest(run_.job, run_.model, timeline_.epoch_samples(), run_.communicator.world(), progress_);
  });
  return true;
}

void Trainer::start(const ParentFacts& parent) {
  optimizer_->start_average();
  const WarmStartOptions& options = run_.job.warm_start;
  if (options.strategy == Strategy::kCold || !parent.exists()) return;
  if (options.reads_optimizer())
    checkpointer_.inherit_moments(parent.path, parent.classes(run_.data.classes()));
  holds_average_ = options.ema == Carry::kLoad && parent.state && parent.state->averaged;
}

void Trainer::begin() {
  hold(false);
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
  warn_of_a_jump();
  const int64_t samples = timeline_.epoch_samples();
  if (run_.is_root() && run_.job.batch.global > samples)
    log_warning("batch.global is " + std::to_string(run_.job.batch.global) + ", and an epoch has " +
                std::to_string(samples) + " samples: a step is an epoch, at the rate of batch.global");
  start_loader();
  started_ = std::chrono::steady_clock::now();
  seconds_before_ = progress_.seconds;
  last_logged_ = progress_;
}

// A child that goes on with its parent's schedule is meant to begin at its rate.
void Trainer::warn_of_a_jump() const {
  const bool goes_on = schedule_state_.origin.step > 0 && progress_.step == 0 && schedule_state_.lr > 0;
  const double first = schedule_.at(progress_, schedule_state_), last = schedule_state_.lr;
  if (!goes_on || !run_.is_root() || std::abs(first - last) <= 0.1 * last) return;
  log_warning("the rate goes from the parent's last, " + short_number(last) + ", to " + short_number(first) +
              ": the job's schedule is not the parent's");
}

void Trainer::start_loader() {
  loader_ = std::make_unique<Loader>(run_.data, run_.split.train, loader_options(run_), progress_.samples);
}

void Trainer::train_steps(int64_t count) {
  if (!loader_) begin();
  for (; count > 0; --count) train_step();
}

Outcome Trainer::train() {
  checkpointer_.reserve();
  begin();
  while (!is_end(progress_)) {
    const Progress before = progress_;
    const Step step = train_step();
    if (step.rolled_back) continue;
    if (step.logs) log_step(step, before);
    checkpointer_.advance(step.saving);
    evaluate_and_save(before, is_end(progress_), step.stop);
    if (step.stop) return Outcome::kPreempted;
    hold(false);
  }
  hold(run_.job.evaluation.averaged);  // which is judged
  return Outcome::kDone;
}

// The way of a batch.
Trainer::Step Trainer::train_step() {
  const StepBatches batches = loader_->next();
  const Progress before = progress_;
  Step step;
  step.lr = schedule_.at(progress_, schedule_state_);
  step.momentum = momentum();
  step.samples = batches.global_samples;
  unfreeze();
  reducer_.start_step();
  int leaf = plan_.first_leaf(run_.communicator.rank());
  for (const std::vector<Batch>& passes : batches.shares) {
    train_share(leaf++, passes, batches.global_samples);
  }
  reducer_.end_passes();
  show();
  step.squared_norm = reducer_.finish().squared_norm;
  agree(step);
  Progress after = progress_;
  after.samples += step.samples;
  ++after.step;
  step.logs = first_ || log_every_.due(before, after) || step.stop || is_end(after);
  if (is_good(step)) {
    update(step);
  } else {
    skip(step);
    if (step.rolled_back) return step;
  }
  progress_ = after;
  schedule_state_.updates_ahead = optimizer_->steps() - progress_.step;
  first_ = false;
  if (!is_good(step)) return step;
  const std::optional<double> noise_scale =
      step.noise_scale ? steady_noise_scale(schedule_state_) : std::nullopt;
  if (schedule_.hear(progress_, StepMeasures{step.loss, noise_scale}, schedule_state_)) log_warmup_end();
  return step;
}

double Trainer::momentum() const {
  const OptimizerOptions& options = run_.job.optimizer;
  const double usual = has_betas(options.name) ? schedule_.adam().beta1 : options.momentum;
  return schedule_.momentum_at(progress_, usual, schedule_state_);
}

// What a group keeps frozen up to now costs no backward pass, and is left as it is as what the loss does not
// depend on.
void Trainer::unfreeze() {
  for (const auto& [parameter, when] : unfreeze_at_)
    run_.parameters.parameters()[parameter].second.requires_grad_(schedule_.now_in_run(progress_) >= when);
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
    const double scaled = weight * (loss_scale_ ? loss_scale_->scale : 1);
    const at::Tensor mean = loss_of(batch);
    mean.backward(at::full({}, scaled, mean.options()));
    row[kLoss] += weight * mean.item<double>();
    const auto samples = static_cast<double>(batch.samples());
    row[kPassSquares] += reducer_.take_pass_squares() / (scaled * scaled);
    row[kPassInverses] += 1 / samples;
    row[kPasses] += 1;
    statistics_->add_change(weight, row.subspan(first_statistic()));
  }
}

at::Tensor Trainer::loss_of(const Batch& batch) {
  const Autocast autocast(run_.job.run.precision, run_.communicator.device());
  const at::Tensor loss = run_.model.loss(batch);
  // A scale is beyond float16, and the weight of a pass would be rounded.
  return run_.job.run.precision == Precision::kFloat32 ? loss : loss.to(at::kFloat);
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
  if (loss_scale_) step.squared_norm /= loss_scale_->scale * loss_scale_->scale;
}

bool Trainer::is_good(const Step& step) const {
  return std::isfinite(step.squared_norm) && std::isfinite(step.loss);
}

void Trainer::update(Step& step) {
  const double most = run_.job.optimizer.max_grad_norm, norm = std::sqrt(step.squared_norm);
  const double clip = most > 0 ? std::max(1.0, (norm + 1e-6) / most) : 1;  // as torch's clip_grad_norm_
  const double age = half_life_ > 0 ? static_cast<double>(step.samples) / half_life_ : 0;
  optimizer_->start_step({.lr = step.lr,
                          .gradient_divisor = clip * (loss_scale_ ? loss_scale_->scale : 1),
                          .momentum = step.momentum,
                          .average_share = -std::expm1(-age * std::numbers::ln2),
                          .untouched = unused_parameters()});
  schedule_state_.lr = step.lr;
  if (loss_scale_) adjust(*loss_scale_, true);
  const PassSums passes{agreed_[kPassSquares], agreed_[kPassInverses], agreed_[kPasses]};
  if (measures_noise(run_.job) && hear_noise(passes, step.squared_norm, step.samples, schedule_state_))
    step.noise_scale = noise_scale(schedule_state_);
  const bool measures = update_ratio_ && step.logs;
  if (measures) update_ratio_->before(*optimizer_);
  update_together(run_.communicator, run_.parameters, reducer_.buckets(), *optimizer_);
  if (measures) step.update_ratios = update_ratio_->after(*optimizer_);
  std::vector<std::span<const double>> changes;
  for (int leaf = 0; leaf < plan_.leaves(); ++leaf) {
    changes.push_back(agreement_->shown(leaf).subspan(first_statistic()));
  }
  statistics_->apply(agreed_.subspan(first_statistic()), changes);
}

// The weights that are trained, or their average where there is one.
void Trainer::hold(bool averaged) {
  if (half_life_ == 0 || averaged == holds_average_) return;
  optimizer_->swap_average();
  for (const Range& bucket : reducer_.buckets())
    run_.communicator.all_gather(run_.parameters.flat(), bucket, kBlock);
  run_.communicator.join("averaged weights");
  holds_average_ = averaged;
}

void Trainer::skip(Step& step) {
  if (loss_scale_ && loss_scale_->scale > 1 && std::isfinite(step.loss)) {  // the scale was too large
    adjust(*loss_scale_, false);
    return statistics_->reset();
  }
  const bool rolls = run_.job.run.on_nan == OnNan::kRollback;
  const bool may = rolls && schedule_state_.rollbacks < run_.job.run.max_rollbacks;
  if (may && can_go_back()) return roll_back(step);
  if (run_.job.run.on_nan != OnNan::kSkip) {
    const std::string tried = !rolls ? ""
                              : may  ? ", and there is no checkpoint before it to go back to"
                                     : ", after " + std::to_string(schedule_state_.rollbacks) + " rollbacks";
    throw AgreedError(
        Error("loss or gradient is not finite at step " + std::to_string(progress_.step) + tried,
              {"",
               "in a new run, lower schedule.base_lr, warm up longer or set optimizer.max_grad_norm; "
               "run.on_nan = \"skip\" leaves such steps out",
               ExitCode::kFailed}));
  }
  statistics_->reset();
  ++skipped_;
  if (run_.is_root()) log_warning("step " + std::to_string(progress_.step) + " skipped: not finite");
}

// The weights and the samples of this step are no better at another rate, so it goes back behind it; and
// where it comes from the very checkpoint that the last rollback went to, behind that, as far as there is
// one.
bool Trainer::can_go_back() {
  const std::optional<int64_t> newest = checkpointer_.drop_from(progress_.step);
  if (!newest) return false;
  back_at_ = newest == back_at_ ? checkpointer_.drop_from(*newest).value_or(*newest) : *newest;
  return true;
}

// To the last checkpoint before this step, and on from there with a lower rate. The clock goes on.
void Trainer::roll_back(Step& step) {
  const ScheduleState now = schedule_state_;
  const Progress failed = progress_;
  if (!resume()) throw AgreedError(Error("there is no checkpoint to go back to"));
  progress_.seconds = failed.seconds;
  schedule_state_.rollbacks = now.rollbacks + 1;
  schedule_state_.rollback_factor = now.rollback_factor * run_.job.run.rollback_lr_factor;
  hold(false);
  statistics_ = std::make_unique<RunningStatistics>(run_.state);
  start_loader();
  last_logged_ = progress_;
  step.rolled_back = true;
  run_.metrics.write(
      "rollback",
      {{"step", failed.step}, {"to_step", progress_.step}, {"lr_factor", schedule_state_.rollback_factor}});
  if (run_.is_root())
    log_warning("step " + std::to_string(failed.step) + " is not finite: back to step " +
                std::to_string(progress_.step) + ", and on with the rate times " +
                short_number(schedule_state_.rollback_factor));
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
    const bool frozen = !run_.parameters.parameters()[i].second.requires_grad();
    if (!frozen) names.push_back("'" + entries[i].name + "'");
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

bool Trainer::is_end(const Progress& progress) const {
  if (run_.job.run.duration.is_time()) return progress.seconds >= run_.job.run.duration.value;
  return static_cast<double>(progress.samples) >= end_;
}

void Trainer::log_step(const Step& step, const Progress& at) {
  const double seconds = progress_.seconds - last_logged_.seconds;
  const auto samples = static_cast<double>(progress_.samples - last_logged_.samples);
  last_logged_ = progress_;
  nlohmann::ordered_json fields{
      {"step", at.step},
      {"samples", at.samples},
      {"epoch", static_cast<double>(at.samples) / static_cast<double>(timeline_.epoch_samples())},
      {"loss", step.loss},
      {"lr", step.lr},
      {"grad_norm", std::sqrt(step.squared_norm)},
      {"samples_per_second", seconds > 0 ? samples / seconds : 0.0},
      {"time", unix_seconds()}};
  if (run_.job.schedule.warmup_momentum) fields["momentum"] = step.momentum;
  if (loss_scale_) fields["loss_scale"] = loss_scale_->scale;
  if (step.noise_scale) {
    fields["noise_scale"] = *step.noise_scale;
    const auto gain = adascale_gain(schedule_state_, run_.job.schedule.base_batch, step.samples);
    if (gain) fields["adascale_gain"] = *gain;
  }
  for (const auto& [group, ratio] : step.update_ratios) fields["update_ratio"][group] = ratio;
  run_.metrics.write("step", std::move(fields));
}

// Who is asked to stop may be given half a minute: it saves and evaluates nothing that is not due, so that a
// run that goes on has the same `best` as one that was left alone.
void Trainer::evaluate_and_save(const Progress& before, bool finished, bool stops) {
  const bool evaluates = finished || evaluate_every_.due(before, progress_);
  const bool due = finished || save_every_.due(before, progress_), saves = due || stops;
  if (guard_ && (saves || check_every_.due(before, progress_))) guard_->check(progress_.step);
  if (evaluates || saves) hold(run_.job.evaluation.averaged);
  if (evaluates) {
    const std::optional<Scores> scores = evaluate_validation();
    // One at the end alone is no look: a run that is made longer has the same rates as one that was.
    if (scores && evaluate_every_.due(before, progress_)) hear_scores(*scores);
    if (scores && due) note_best(*scores);  // the best of those that can be gone back to
    run_.model.train();
  }
  if (saves) checkpointer_.save(state());
  if (finished || stops) checkpointer_.finish();
}

TrainState Trainer::state() const {
  TrainState state;
  state.progress = progress_;
  state.best = best_;
  state.skipped_steps = skipped_;
  state.schedule = schedule_state_;
  state.loss_scale = loss_scale_;
  state.averaged = holds_average_;
  return state;
}

void Trainer::hear_scores(const Scores& scores) {
  const bool warm = schedule_state_.warmup_end.has_value();
  if (!schedule_.hear(progress_, ValidationMeasures{scores.mean_loss(), scores.accuracy()}, schedule_state_))
    return;
  if (warm != schedule_state_.warmup_end.has_value()) return log_warmup_end();
  run_.metrics.write("plateau", {{"step", progress_.step},
                                 {"samples", progress_.samples},
                                 {"lr_factor", schedule_state_.plateau_factor}});
  if (run_.is_root())
    log_info("no gain on the validation data at step " + std::to_string(progress_.step) +
             ": the rate falls, to " + short_number(schedule_state_.plateau_factor) + " of the peak");
}

void Trainer::log_warmup_end() {
  run_.metrics.write(
      "warmup_end",
      {{"step", progress_.step}, {"samples", progress_.samples}, {"reached", schedule_state_.reached}});
  if (run_.is_root()) log_info("the warm-up ends at step " + std::to_string(progress_.step));
}

void Trainer::note_best(const Scores& scores) {
  const std::string metric = run_.job.verdict.value_or(VerdictOptions{}).metric;
  const double score = metric == "loss" ? -scores.mean_loss() : scores.accuracy();
  if (!std::isfinite(score)) return;
  if (!best_ || score > best_->score) best_ = Best{score, progress_.step};
}

std::optional<Scores> Trainer::evaluate_validation() {
  hold(run_.job.evaluation.averaged);
  if (run_.split.validation.empty()) return std::nullopt;
  Scores scores =
      evaluate(run_.communicator, run_.model, run_.data, run_.split.validation, run_.evaluate_options());
  log_scores(run_, "validation", "child", scores, progress_);
  return scores;
}

}  // namespace rekindle
