// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include "job/job.h"
#include "models/model.h"

namespace rekindle {

// What only job, model and data together show, looked at before anything is written. Throws bad_input for a
// schedule that does not fit the data, and for a batch that leaves a rank a single sample where batch-norm
// needs two.
void check_fits(const Job& job, Model& model, int64_t train_samples, int world);

}  // namespace rekindle
