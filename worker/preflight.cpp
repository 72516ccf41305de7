// SPDX-License-Identifier: Apache-2.0
#include "worker/preflight.h"

#include <torch/nn/modules/batchnorm.h>
#include <torch/nn/modules/embedding.h>

#include <algorithm>
#include <set>

#include "comm/flat_parameters.h"
#include "core/error.h"
#include "core/progress.h"
#include "core/text.h"
#include "data/loader.h"
#include "optimizers/groups.h"

namespace rekindle {
namespace {

// The fewest samples that a forward pass gets of a batch, as the loader cuts it.
int64_t smallest_pass(int64_t batch, int cut, int64_t least, int64_t microbatch) {
  int64_t smallest = batch;
  for (int worker = 0; worker < cut; ++worker) {
    const int64_t share = share_of(batch, worker, cut, least).size();
    if (share == 0) continue;
    const int64_t passes = microbatch > 0 ? (share + microbatch - 1) / microbatch : 1;
    smallest = std::min(smallest, share / passes);
  }
  return smallest;
}

// The built-in models compute on numbers; LibTorch would say so in its own words, deep in the first pass.
void check_integers(const Job& job, const Dataset& data) {
  const std::vector<std::string> built_in = built_in_models();
  if (data.element() != Element::kInteger || std::ranges::count(built_in, job.model.name()) == 0) return;
  throw bad_input("x is I64, and model '" + job.model.name() + "' takes numbers", "[data]",
                  "convert it, in PyTorch by x.float(); integers such as tokens are for a model of your own");
}

// Files hold tensors row by row, and they are read to where they belong.
void check_contiguous(const NamedState& state) {
  for (const auto* part : {&state.frozen, &state.buffers}) {
    for (const auto& [name, tensor] : *part) {
      if (tensor.is_contiguous()) continue;
      throw bad_input("tensor '" + name + "' of the model is not contiguous", "[model]",
                      "register it with .contiguous()");
    }
  }
}

// The ranks of a node share one copy of the weights.
void check_leaves_weights(Model& model) {
  for (const auto& module : model.named_modules()) {
    const auto* embedding = module.value()->as<torch::nn::EmbeddingImpl>();
    const auto* bag = module.value()->as<torch::nn::EmbeddingBagImpl>();
    if (!(embedding && embedding->options.max_norm()) && !(bag && bag->options.max_norm())) continue;
    throw bad_input(
        "embedding '" + module.key() + "' has max_norm, which writes to its weights in each forward pass",
        "[model]",
        "the ranks of a node share one copy of the weights: normalise what is looked up, in forward");
  }
}

}  // namespace

std::shared_ptr<Model> make_trainee(const Job& job, const DataShape& shape) {
  std::shared_ptr<Model> model = make_model(job.model, shape);
  std::vector<std::string> names;
  for (auto& parameter : model->named_parameters()) {
    const GroupOptions* const group = group_of(job.optimizer, parameter.key());
    if (group != nullptr && group->freeze) parameter.value().requires_grad_(false);
    names.push_back(parameter.key());
  }
  check_groups(job.optimizer, names);
  return model;
}

void check_model(const Job& job, const Dataset& data, Model& model, const NamedState& state) {
  check_integers(job, data);
  if (state.parameters.empty())
    throw bad_input("nothing is left to train: every parameter is frozen", "[model]", "see optimizer.groups");
  const auto waits = [&](const auto& parameter) {
    const GroupOptions* const group = group_of(job.optimizer, parameter.first);
    return group != nullptr && !group->unfreeze_at.is_zero();
  };
  if (std::ranges::all_of(state.parameters, waits)) {
    throw bad_input("nothing is trained at first: every parameter waits for its unfreeze_at",
                    "optimizer.groups", "leave it out of one group, the head's for instance");
  }
  check_trainable(state.parameters);
  check_contiguous(state);
  check_leaves_weights(model);
}

int virtual_workers(const Job& job, int world) {
  if (job.run.reproducible != Reproducible::kAnyWorld) return world;
  if (job.batch.virtual_workers >= world) return job.batch.virtual_workers;
  throw bad_input(std::to_string(world) + " workers cannot share " +
                      std::to_string(job.batch.virtual_workers) + " virtual ones",
                  "batch.virtual_workers", "give at least as many as the largest number of workers");
}

int64_t least_samples(Model& model) {
  const auto modules = model.modules();
  const bool normalizes = std::any_of(modules.begin(), modules.end(), [](const auto& module) {
    return module->template as<torch::nn::BatchNorm1dImpl>() ||
           module->template as<torch::nn::BatchNorm2dImpl>() ||
           module->template as<torch::nn::BatchNorm3dImpl>();
  });
  return normalizes ? 2 : 1;
}

Job for_world(Job job, int world) {
  if (job.batch.per_worker > 0) job.batch.global = job.batch.per_worker * world;
  return job;
}

BatchRamp ramp_of(const Job& job, int64_t train_samples) {
  if (job.batch.ramp.is_zero()) return {};
  const Timeline full(train_samples, job.batch.global);
  return {job.batch.start, full.samples_in(job.batch.ramp, 0)};
}

Timeline timeline_of(const Job& job, int64_t train_samples) {
  return Timeline(train_samples, job.batch.global, ramp_of(job, train_samples));
}

Schedule schedule_of(const Job& job, const Timeline& timeline, const ScheduleState& state) {
  const OptimizerOptions& optimizer = job.optimizer;
  ScheduleOptions options = job.schedule;
  options.base_lr *= state.peak_factor;
  return Schedule(options, timeline, job.run.duration, {optimizer.beta1, optimizer.beta2, optimizer.eps},
                  state);
}

ScheduleState starting_state(const Job& job, bool has_parent, const TrainState* parent) {
  ScheduleState state;
  const WarmStartOptions& options = job.warm_start;
  if (!has_parent || options.strategy == Strategy::kCold) return state;
  const int64_t updates =
      parent != nullptr && options.optimizer == Carry::kLoad ? parent->optimizer_steps : 0;
  state.updates_ahead = updates;
  if (options.schedule == CarrySchedule::kReset) return state;
  if (parent == nullptr) {
    throw bad_input("weights from elsewhere have no schedule to go on with", "warm_start.load.schedule",
                    "take \"reset\"");
  }
  if (job.warm_start.schedule == CarrySchedule::kRewarm) {
    state.start_lr = parent->schedule.lr;
    state.peak_factor = options.rewarm_factor;
    return state;
  }
  state = parent->schedule;
  state.updates_ahead = updates;
  state.rollbacks = 0;
  state.origin.samples += parent->progress.samples;
  state.origin.step += parent->progress.step;
  state.origin.seconds += parent->progress.seconds;
  return state;
}

ScheduleState schedule_state_of(const TrainState& saved) {
  ScheduleState state = saved.schedule;
  state.updates_ahead = saved.optimizer_steps - saved.progress.step;
  return state;
}

double half_life_of(const Job& job, const Timeline& timeline) {
  const Length& length = job.optimizer.ema_half_life;
  if (length.is_zero()) return 0;
  const Length& duration = job.run.duration;
  if (length.unit == Unit::kShare && duration.is_time()) {
    throw bad_input("a run that ends by the clock has no fixed number of samples for " + to_string(length),
                    "optimizer.ema_half_life", "give it in samples, steps or epochs");
  }
  return timeline.samples_in(length, duration.is_time() ? 0 : timeline.samples_in(duration, 0));
}

OptimizerOptions optimizer_of(const Job& job, const Schedule& schedule) {
  OptimizerOptions options = job.optimizer;
  options.beta1 = schedule.adam().beta1;
  options.beta2 = schedule.adam().beta2;
  options.eps = schedule.adam().eps;
  return options;
}

bool warms_up_long(const Job& job, const Schedule& schedule) {
  return !job.schedule.long_warmup && schedule.warmup() - schedule.before() > schedule.end() / 2;
}

namespace {

// Throws where a batch leaves a pass fewer samples than the model needs.
void check_batches(const Job& job, const std::set<int64_t>& batches, int cut, int64_t least,
                   int64_t train_samples) {
  for (const int64_t batch : batches) {
    if (batch == 0 || smallest_pass(batch, cut, least, job.batch.microbatch) >= least) continue;
    throw bad_input("a batch of " + std::to_string(batch) +
                        " leaves a forward pass a single sample, and batch-norm needs two",
                    "batch.global",
                    "an epoch has " + std::to_string(train_samples) +
                        " samples: change batch.global or batch.microbatch");
  }
}

// Groups that wait must get their turn.
void check_unfreezing(const Job& job, const Timeline& timeline, const Schedule& schedule) {
  for (const GroupOptions& group : job.optimizer.groups) {
    if (group.unfreeze_at.is_zero()) continue;
    if (schedule.clock(group.unfreeze_at, timeline, "optimizer.groups.unfreeze_at") < schedule.end())
      continue;
    throw bad_input("a group would be unfrozen at " + to_string(group.unfreeze_at) + ", when the run is over",
                    "optimizer.groups.unfreeze_at", "say freeze = true for what is never trained");
  }
}

}  // namespace

void check_rest(const Job& job, Model& model, int64_t train_samples, int world, const Progress& progress) {
  if (!job.batch.ramp.is_zero()) return;  // check_fits() has gone through these
  const int64_t rest = train_samples - progress.samples % train_samples;
  check_batches(job, {rest % job.batch.global}, virtual_workers(job, world), least_samples(model),
                train_samples);
}

void check_fits(const Job& job, Model& model, int64_t train_samples, int world, const ScheduleState& state) {
  const Timeline timeline = timeline_of(job, train_samples);
  const Schedule schedule = schedule_of(job, timeline, state);
  half_life_of(job, timeline);
  check_unfreezing(job, timeline, schedule);
  const int cut = virtual_workers(job, world);
  const int64_t least = least_samples(model);
  std::set<int64_t> batches{std::min(job.batch.global, train_samples),
                            train_samples - (timeline.steps_per_epoch() - 1) * job.batch.global};
  // While the batch grows, and in the epoch in which it has grown, others may be cut short.
  for (int64_t step = 0; step < timeline.ramp_steps(); ++step)
    batches.insert(timeline.batch_at(timeline.samples_after(step)));
  const int64_t grown = timeline.samples_after(timeline.ramp_steps()),
                rest = train_samples - grown % train_samples;
  if (timeline.ramp_steps() > 0 && rest % job.batch.global > 0) batches.insert(rest % job.batch.global);
  check_batches(job, batches, cut, least, train_samples);
}

void check_noise(const Job& job, Model& model, int64_t train_samples, int world) {
  const bool decides = job.schedule.warmup_until == WarmupUntil::kNoiseScale;
  if (!decides && !job.run.diagnostics.noise_scale) return;
  const int cut = virtual_workers(job, world);
  const int64_t share =
      share_of(std::min(job.batch.global, train_samples), 0, cut, least_samples(model)).size();
  if (cut > 1 || (job.batch.microbatch > 0 && share > job.batch.microbatch)) return;
  throw bad_input("one worker with one forward pass a step cannot tell the noise in its gradient",
                  decides ? "schedule.warmup_until" : "run.diagnostics",
                  "give batch.microbatch at most half of the batch, or more workers");
}

}  // namespace rekindle
