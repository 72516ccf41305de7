// SPDX-License-Identifier: Apache-2.0
#include "worker/preflight.h"

#include <torch/nn/modules/batchnorm.h>

#include <algorithm>

#include "core/error.h"
#include "core/progress.h"
#include "schedules/schedule.h"

namespace rekindle {
namespace {

bool normalizes_single_values(Model& model) {
  const auto modules = model.modules();
  return std::any_of(modules.begin(), modules.end(), [](const auto& module) {
    return module->template as<torch::nn::BatchNorm1dImpl>() != nullptr;
  });
}

// The fewest samples that a forward pass gets of a batch, as the loader cuts it.
int64_t smallest_pass(int64_t batch, int world, int64_t microbatch) {
  int64_t smallest = batch;
  for (int rank = 0; rank < world; ++rank) {
    const int64_t share = batch * (rank + 1) / world - batch * rank / world;
    if (share == 0) continue;
    const int64_t passes = microbatch > 0 ? (share + microbatch - 1) / microbatch : 1;
    smallest = std::min(smallest, share / passes);
  }
  return smallest;
}

}  // namespace

void check_fits(const Job& job, Model& model, int64_t train_samples, int world) {
  const Timeline timeline(train_samples, job.batch.global);
  const Schedule schedule(job.schedule, timeline, job.run.duration);
  if (!normalizes_single_values(model)) return;
  const int64_t last = train_samples - (timeline.steps_per_epoch() - 1) * job.batch.global;
  for (const int64_t batch : {timeline.batch_at(0), last}) {
    if (smallest_pass(batch, world, job.batch.microbatch) > 1) continue;
    throw bad_input(
        "a batch of " + std::to_string(batch) + " leaves a worker a single sample, and batch-norm needs two",
        "batch.global",
        "an epoch has " + std::to_string(train_samples) + " samples, on " + std::to_string(world) +
            " workers: change batch.global, batch.microbatch or the number of workers");
  }
}

}  // namespace rekindle
