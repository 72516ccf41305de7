// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "core/safetensors.h"
#include "warmstart/options.h"

namespace rekindle {

// A tensor of the model that one of the parent's may become.
struct Target {
  enum class Part { kParameter, kFrozen, kBuffer };

  std::string name;
  std::vector<int64_t> shape;
  safetensors::DType dtype;
  Part part;
};

// The classes that a parent's head tells apart, and the child's, each in the order of the head's rows. Both
// empty where they are not known: then no head grows.
struct HeadClasses {
  std::vector<std::string> parent, child;
};

// A tensor of the file that becomes one of the model.
struct Match {
  size_t source, target;   // indices into what match() was given
  bool renamed = false;    // by a rule
  bool converted = false;  // from another floating-point type
  std::vector<int64_t>
      rows;  // of a head that grows: for each row of the model's the file's, or -1; else empty
};

// What match() found, every tensor of either side in exactly one place.
struct Matching {
  std::vector<Match> matches;  // in the order of sources
  std::vector<size_t> fresh;   // targets that keep what they have
  std::vector<size_t> unused;  // sources that go nowhere
};

// Pairs the tensors of a file with those of a model: by name, after `options.rename`, among those that
// `include`, `exclude` and `[warm_start.load]` leave. Of a head (first dimension: the classes) rows are
// paired by class, and new classes keep their fresh rows. Throws bad_input that names `where` for a pair of
// different shapes, or of types of which not both are floating-point; for two tensors that get one name; and
// for a rule or glob that is wrong or matches nothing.
Matching match(std::span<const safetensors::TensorInfo* const> sources, std::span<const Target> targets,
               const WarmStartOptions& options, const HeadClasses& classes, const std::string& where);

// Whether a tensor of this name holds batch-norm's running statistics.
bool is_running_statistic(const std::string& name);

}  // namespace rekindle
