// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "comm/communicator.h"
#include "comm/flat_parameters.h"
#include "core/file_system.h"
#include "core/schedule_state.h"
#include "data/dataset.h"
#include "data/split.h"
#include "job/job.h"
#include "models/model.h"
#include "warmstart/named_state.h"

namespace rekindle {

// The first phases of whatever a rank does with a job. All but the first are collective and throw the same
// error on all ranks.

// Threads, memory, determinism and the seed that the initial weights come from.
void set_up_torch(const Job& job);

// A worker keeps the memory that it frees, which pays in a training loop. While this lives, what is large is
// given back at once: for models that are built and moved or dropped. For one thread.
class GivesMemoryBack {
 public:
  GivesMemoryBack();
  ~GivesMemoryBack();
  GivesMemoryBack(const GivesMemoryBack&) = delete;
  GivesMemoryBack& operator=(const GivesMemoryBack&) = delete;
};

// The same data on every rank; `parent_classes` come first, as Dataset has it.
Dataset load_data(Communicator& communicator, FileSystem& files, const Job& job,
                  const std::vector<std::string>& parent_classes);

Split split_data(Communicator& communicator, const Dataset& data, const Job& job);

// What is trained, and the memory that it lies in.
struct Trainee {
  std::shared_ptr<Model> model;
  NamedState state;
  std::unique_ptr<FlatParameters> parameters;
};

// `state` is where the schedule begins.
Trainee build_model(Communicator& communicator, const Job& job, const Dataset& data, const Split& split,
                    const ScheduleState& state = {});

}  // namespace rekindle
