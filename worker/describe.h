// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <vector>

#include "core/file_system.h"
#include "job/job.h"

namespace rekindle {

// What `rekindle plan` asks for, as one JSON object: the model, the data, what a warm start would load, and
// for each number of workers what a run would be. Without MPI, without a GPU, and nothing is written.
// `schedule`: the rate of every step too. Throws bad_input for a job that could not run.
nlohmann::ordered_json describe(FileSystem& files, const Job& job, const std::vector<int>& worlds,
                                bool schedule);

}  // namespace rekindle
