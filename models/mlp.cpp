// SPDX-License-Identifier: Apache-2.0
#include <torch/nn/modules/batchnorm.h>
#include <torch/nn/modules/container/modulelist.h>
#include <torch/nn/modules/linear.h>

#include "core/error.h"
#include "models/built_in.h"

namespace rekindle {
namespace {

class Mlp : public Model {
 public:
  Mlp(const ModelOptions& options, const DataShape& shape) : dropout_(options.real("dropout", 0)) {
    if (!(dropout_ >= 0 && dropout_ < 1)) throw bad_input("dropout must be in [0, 1)", "model.dropout");
    const bool batch_norm = options.boolean("batch_norm", false);
    int64_t width = shape.features();
    for (const int64_t hidden : options.integers("hidden", {100, 100})) {
      if (hidden < 1) throw bad_input("a hidden layer needs at least one unit", "model.hidden");
      layers_->push_back(torch::nn::Linear(width, hidden));
      if (batch_norm) norms_->push_back(torch::nn::BatchNorm1d(hidden));
      width = hidden;
    }
    layers_->push_back(torch::nn::Linear(width, shape.classes()));
    register_module("layers", layers_);
    if (batch_norm) register_module("norms", norms_);
  }

  at::Tensor forward(const Batch& batch) override {
    at::Tensor x = batch.x.flatten(1);
    for (size_t i = 0; i + 1 < layers_->size(); ++i) {
      x = layers_->at<torch::nn::LinearImpl>(i).forward(x);
      if (!norms_->is_empty()) x = norms_->at<torch::nn::BatchNorm1dImpl>(i).forward(x);
      x = x.relu();
      if (dropout_ > 0) x = at::dropout(x, dropout_, is_training());
    }
    return layers_->at<torch::nn::LinearImpl>(layers_->size() - 1).forward(x);
  }

 private:
  double dropout_;
  torch::nn::ModuleList layers_, norms_;
};

class Logistic : public Model {
 public:
  Logistic(const ModelOptions&, const DataShape& shape)
      : linear_(register_module("linear", torch::nn::Linear(shape.features(), shape.classes()))) {}

  at::Tensor forward(const Batch& batch) override { return linear_->forward(batch.x.flatten(1)); }

 private:
  torch::nn::Linear linear_;
};

}  // namespace

std::shared_ptr<Model> make_mlp(const ModelOptions& options, const DataShape& shape) {
  return std::make_shared<Mlp>(options, shape);
}

std::shared_ptr<Model> make_logistic(const ModelOptions& options, const DataShape& shape) {
  return std::make_shared<Logistic>(options, shape);
}

}  // namespace rekindle
