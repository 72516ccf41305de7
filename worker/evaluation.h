// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "comm/communicator.h"
#include "data/dataset.h"
#include "models/model.h"

namespace rekindle {

// What a model makes of each of some samples, in their order; the same on every rank.
struct Scores {
  std::vector<double> correct;  // 1 or 0
  std::vector<double> loss;     // cross-entropy

  int64_t samples() const { return static_cast<int64_t>(correct.size()); }
  double accuracy() const;  // means, added in the order of the samples
  double mean_loss() const;
  const std::vector<double>& of(const std::string& metric) const { return metric == "loss" ? loss : correct; }
};

struct EvaluateOptions {
  int64_t batch = 512;       // samples in one forward pass
  double mean = 0, std = 1;  // as gather() takes them
};

// Collective. Every sample is evaluated exactly once, by one rank. The cut into batches is the same for any
// world, so the scores are too. A class that the model does not know, as a parent's of fewer classes, counts
// as its least likely one and is never correct. Leaves the model in evaluation mode.
Scores evaluate(Communicator& communicator, Model& model, const Dataset& data,
                std::span<const int64_t> indices, const EvaluateOptions& options);

}  // namespace rekindle
