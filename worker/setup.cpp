// SPDX-License-Identifier: Apache-2.0
#include "worker/setup.h"

#include <ATen/Context.h>
#include <ATen/Parallel.h>
#include <malloc.h>
#include <torch/utils.h>

#include <algorithm>
#include <cstdlib>
#include <optional>
#include <sstream>

#include "core/error.h"
#include "core/log.h"
#include "worker/model_card.h"
#include "worker/preflight.h"

namespace rekindle {
namespace {

std::string shapes_text(const NamedState& state) {
  std::ostringstream text;
  for (const auto* part : {&state.parameters, &state.frozen, &state.buffers}) {
    for (const auto& [name, tensor] : *part)
      text << name << ' ' << tensor.dtype() << ' ' << tensor.sizes() << '\n';
    text << '\n';
  }
  return text.str();
}

// Activations and gradients are allocated anew each step, in the same sizes. What malloc gives back to the
// kernel in between, the kernel clears again, page by page: a tenth of a step of a small transformer.
void keep_freed_memory() {
  constexpr int kGrowth = 64 << 20;
  mallopt(M_MMAP_MAX, 0);
  mallopt(M_TRIM_THRESHOLD, -1);  // never
  mallopt(M_TOP_PAD, kGrowth);
}

}  // namespace

GivesMemoryBack::GivesMemoryBack() {
  mallopt(M_MMAP_MAX, 1 << 16);        // blocks that are maps of their own
  mallopt(M_MMAP_THRESHOLD, 1 << 20);  // from this size on
}

GivesMemoryBack::~GivesMemoryBack() {
  keep_freed_memory();
}

void set_up_torch(const Job& job) {
  keep_freed_memory();
  at::set_num_threads(job.run.threads);
  at::globalContext().setAllowTF32CuBLAS(job.run.tf32);
  at::globalContext().setAllowTF32CuDNN(job.run.tf32);
  if (job.run.reproducible != Reproducible::kFast) {
    at::globalContext().setDeterministicAlgorithms(true, /*warn_only=*/false);
    at::globalContext().setDeterministicFillUninitializedMemory(false);  // a pass over all that is allocated
    setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8", /*overwrite=*/0);       // which cuBLAS asks for then
  }
  torch::manual_seed(job.run.seed);
}

Dataset load_data(Communicator& communicator, FileSystem& files, const Job& job,
                  const std::vector<std::string>& parent_classes) {
  std::optional<Dataset> data;
  together(communicator, "data", [&] { data.emplace(files, job.data, parent_classes); });
  std::string digests;
  for (const Increment& increment : data->increments()) digests += increment.digest;
  check_same(communicator, digests, "data", "the files must be the same on every node");
  if (communicator.rank() == 0) {
    for (const std::string& warning : data->warnings()) log_warning(warning);
  }
  return std::move(*data);
}

Split split_data(Communicator& communicator, const Dataset& data, const Job& job) {
  Split parts;
  together(communicator, "split of the data", [&] { parts = split(data, job.split); });
  if (communicator.rank() == 0) {
    const size_t increments = data.increments().size();
    log_info(std::to_string(data.size()) + " samples in " + std::to_string(increments) +
             (increments == 1 ? " increment: " : " increments: ") + std::to_string(parts.train.size()) +
             " to train on, " + std::to_string(parts.validation.size()) + " for validation, " +
             std::to_string(parts.test.size()) + " for the test");
  }
  return parts;
}

Trainee build_model(Communicator& communicator, const Job& job, const Dataset& data, const Split& split,
                    const ScheduleState& state) {
  Trainee trainee;
  const GivesMemoryBack until_it_has_moved;
  together(communicator, "model", [&] {
    trainee.model = make_trainee(job, data.shape());
    trainee.model->to(communicator.device());
    trainee.state = state_of(*trainee.model);
    check_model(job, data, *trainee.model, trainee.state);
    check_fits(job, *trainee.model, static_cast<int64_t>(split.train.size()), communicator.world(), state);
  });
  check_same(communicator, shapes_text(trainee.state), "model",
             "the same names and shapes of parameters and buffers are needed everywhere");
  trainee.parameters = std::make_unique<FlatParameters>(communicator, trainee.state.parameters);
  return trainee;
}

}  // namespace rekindle
