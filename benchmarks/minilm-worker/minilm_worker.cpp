// SPDX-License-Identifier: Apache-2.0
// A worker of one's own for the comparison: an encoder of MiniLM-L6's size (22.7 M parameters) that
// classifies tokens, with the mathematics of MiniLm in benchmarks/peers/workloads.py. x is I64, [samples,
// tokens].
#include <ATen/ops/gelu.h>
#include <ATen/ops/scaled_dot_product_attention.h>
#include <ATen/ops/tanh.h>
#include <torch/nn/init.h>
#include <torch/nn/modules/container/modulelist.h>
#include <torch/nn/modules/embedding.h>
#include <torch/nn/modules/linear.h>
#include <torch/nn/modules/normalization.h>

#include "models/model.h"
#include "worker/worker.h"

namespace {

using torch::nn::Embedding, torch::nn::LayerNorm, torch::nn::Linear;

LayerNorm norm_of(int64_t width) {
  return LayerNorm(torch::nn::LayerNormOptions({width}).eps(1e-12));
}

class Layer : public torch::nn::Module {
 public:
  Layer(int64_t width, int64_t heads, int64_t inner)
      : heads_(heads),
        qkv_(register_module("qkv", Linear(width, 3 * width))),
        out_(register_module("out", Linear(width, width))),
        norm1_(register_module("norm1", norm_of(width))),
        up_(register_module("up", Linear(width, inner))),
        down_(register_module("down", Linear(inner, width))),
        norm2_(register_module("norm2", norm_of(width))) {}

  at::Tensor forward(const at::Tensor& x) {
    const int64_t samples = x.size(0), tokens = x.size(1), width = x.size(2);
    const auto parts =
        qkv_(x).view({samples, tokens, 3, heads_, width / heads_}).permute({2, 0, 3, 1, 4}).unbind(0);
    const at::Tensor attended = at::scaled_dot_product_attention(parts[0], parts[1], parts[2]);
    const at::Tensor y = norm1_(x + out_(attended.transpose(1, 2).reshape({samples, tokens, width})));
    return norm2_(y + down_(at::gelu(up_(y))));
  }

 private:
  int64_t heads_;
  Linear qkv_, out_;
  LayerNorm norm1_;
  Linear up_, down_;
  LayerNorm norm2_;
};

class MiniLm : public rekindle::Model {
 public:
  MiniLm(const rekindle::ModelOptions& options, const rekindle::DataShape& shape)
      : word_(register_module("word", Embedding(options.integer("vocabulary", 30522), kWidth))),
        position_(register_module("position", Embedding(512, kWidth))),
        kind_(register_module("kind", Embedding(2, kWidth))),
        norm_(register_module("norm", norm_of(kWidth))),
        layers_(register_module("layers", torch::nn::ModuleList())),
        pool_(register_module("pool", Linear(kWidth, kWidth))),
        head_(register_module("head", Linear(kWidth, shape.classes()))) {
    for (int i = 0; i < 6; ++i) layers_->push_back(std::make_shared<Layer>(kWidth, 12, 4 * kWidth));
    for (const auto& module : modules(/*include_self=*/false)) {
      if (auto* linear = module->as<Linear>()) torch::nn::init::normal_(linear->weight, 0, 0.02);
      if (auto* embedding = module->as<Embedding>()) torch::nn::init::normal_(embedding->weight, 0, 0.02);
    }
  }

  at::Tensor forward(const rekindle::Batch& batch) override {
    const int64_t tokens = batch.x.size(1);
    at::Tensor x = norm_(word_(batch.x) + position_->weight.narrow(0, 0, tokens) + kind_->weight[0]);
    for (const auto& layer : *layers_) x = layer->as<Layer>()->forward(x);
    return head_(at::tanh(pool_(x.select(1, 0))));
  }

 private:
  static constexpr int64_t kWidth = 384;

  Embedding word_, position_, kind_;
  LayerNorm norm_;
  torch::nn::ModuleList layers_;
  Linear pool_, head_;
};

REKINDLE_MODEL("minilm", MiniLm);

}  // namespace

int main(int argc, char** argv) {
  return rekindle::worker_main(argc, argv);
}
