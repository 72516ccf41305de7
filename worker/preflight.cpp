// SPDX-License-Identifier: Apache-2.0
#include "worker/preflight.h"

#include <torch/nn/modules/batchnorm.h>
#include <torch/nn/modules/embedding.h>

#include <algorithm>

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

Schedule schedule_of(const Job& job, const Timeline& timeline) {
  const OptimizerOptions& optimizer = job.optimizer;
  return Schedule(job.schedule, timeline, job.run.duration,
                  {optimizer.beta1, optimizer.beta2, optimizer.eps});
}

OptimizerOptions optimizer_of(const Job& job, const Schedule& schedule) {
  OptimizerOptions options = job.optimizer;
  options.beta1 = schedule.adam().beta1;
  options.beta2 = schedule.adam().beta2;
  options.eps = schedule.adam().eps;
  return options;
}

bool warms_up_long(const Job& job, const Schedule& schedule) {
  return !job.schedule.long_warmup && schedule.warmup() > schedule.end() / 2;
}

void check_fits(const Job& job, Model& model, int64_t train_samples, int world) {
  const Timeline timeline(train_samples, job.batch.global);
  schedule_of(job, timeline);
  const int cut = virtual_workers(job, world);
  const int64_t least = least_samples(model);
  const int64_t last = train_samples - (timeline.steps_per_epoch() - 1) * job.batch.global;
  for (const int64_t batch : {timeline.batch_at(0), last}) {
    if (smallest_pass(batch, cut, least, job.batch.microbatch) >= least) continue;
    throw bad_input("a batch of " + std::to_string(batch) +
                        " leaves a forward pass a single sample, and batch-norm needs two",
                    "batch.global",
                    "an epoch has " + std::to_string(train_samples) +
                        " samples: change batch.global or batch.microbatch");
  }
}

}  // namespace rekindle
