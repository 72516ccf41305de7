// SPDX-License-Identifier: Apache-2.0
// Part of the public interface: <rekindle/model.h>.
#pragma once

#include <torch/nn/module.h>

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "core/batch.h"
#include "models/options.h"

namespace rekindle {

// What is trained: a torch module whose parameters and buffers are named as they stand in model.safetensors.
// Parameters are float32. A rank calls it from one thread. Only the optimizer writes to parameters, never
// forward (as an Embedding with max_norm would): the ranks of a node may share one copy of them.
class Model : public torch::nn::Module {
 public:
  // Logits, [samples, classes].
  virtual at::Tensor forward(const Batch& batch) = 0;

  // What a step minimises: a scalar, the mean over the batch's samples. Cross-entropy unless overridden.
  virtual at::Tensor loss(const Batch& batch);
};

// Models by name. The built-in ones are there from the start; REKINDLE_MODEL adds your own.
using ModelFactory = std::function<std::shared_ptr<Model>(const ModelOptions&, const DataShape&)>;
bool register_model(const std::string& name,
                    ModelFactory factory);  // true; throws Error if the name is taken

// Throws bad_input for an unknown name, and for keys of [model] that the model did not ask for.
std::shared_ptr<Model> make_model(const ModelOptions& options, const DataShape& shape);

}  // namespace rekindle

// REKINDLE_MODEL("my-net", MyNet); in one source file of your worker. MyNet(const ModelOptions&, const
// DataShape&).
#define REKINDLE_MODEL(name, Type)                                                            \
  [[maybe_unused]] static const bool rekindle_registered_##Type = ::rekindle::register_model( \
      name, [](const ::rekindle::ModelOptions& options, const ::rekindle::DataShape& shape) { \
        return std::make_shared<Type>(options, shape);                                        \
      })
