// SPDX-License-Identifier: Apache-2.0
#include <torch/nn/init.h>
#include <torch/nn/modules/batchnorm.h>
#include <torch/nn/modules/container/sequential.h>
#include <torch/nn/modules/conv.h>
#include <torch/nn/modules/linear.h>

#include "core/error.h"
#include "models/built_in.h"

namespace rekindle {
namespace {

torch::nn::Conv2d convolution(int64_t in, int64_t out, int64_t kernel, int64_t stride) {
  return torch::nn::Conv2d(
      torch::nn::Conv2dOptions(in, out, kernel).stride(stride).padding(kernel / 2).bias(false));
}

class BasicBlockImpl : public torch::nn::Module {
 public:
  BasicBlockImpl(int64_t in, int64_t out, int64_t stride)
      : conv1_(register_module("conv1", convolution(in, out, 3, stride))),
        bn1_(register_module("bn1", torch::nn::BatchNorm2d(out))),
        conv2_(register_module("conv2", convolution(out, out, 3, 1))),
        bn2_(register_module("bn2", torch::nn::BatchNorm2d(out))) {
    if (stride == 1 && in == out) return;
    downsample_ = register_module(
        "downsample", torch::nn::Sequential(convolution(in, out, 1, stride), torch::nn::BatchNorm2d(out)));
  }

  at::Tensor forward(const at::Tensor& x) {
    at::Tensor y = bn1_->forward(conv1_->forward(x)).relu_();
    y = bn2_->forward(conv2_->forward(y));
    return y.add_(downsample_.is_empty() ? x : downsample_->forward(x)).relu_();
  }

 private:
  torch::nn::Conv2d conv1_;
  torch::nn::BatchNorm2d bn1_;
  torch::nn::Conv2d conv2_;
  torch::nn::BatchNorm2d bn2_;
  torch::nn::Sequential downsample_{nullptr};
};
TORCH_MODULE(BasicBlock);

class ResNet : public Model {
 public:
  ResNet(const DataShape& shape, const std::vector<int64_t>& blocks) {
    if (shape.sample().size() != 3) {
      throw bad_input(
          "resnet18 needs images [channels, height, width]", "model.name",
          "this data set's samples have " + std::to_string(shape.sample().size()) + " dimensions");
    }
    conv1_ = register_module("conv1", convolution(shape.sample()[0], 64, 3, 1));
    bn1_ = register_module("bn1", torch::nn::BatchNorm2d(64));
    int64_t in = 64;
    for (size_t stage = 0; stage < blocks.size(); ++stage) {
      torch::nn::Sequential layer;
      const int64_t out = int64_t{64} << stage;
      for (int64_t block = 0; block < blocks[stage]; ++block) {
        layer->push_back(BasicBlock(in, out, block == 0 && stage > 0 ? 2 : 1));
        in = out;
      }
      layers_.push_back(register_module("layer" + std::to_string(stage + 1), layer));
    }
    fc_ = register_module("fc", torch::nn::Linear(in, shape.classes()));
    for (auto& module : modules(/*include_self=*/false)) {  // as torchvision initialises it
      if (auto* conv = module->as<torch::nn::Conv2dImpl>()) {
        torch::nn::init::kaiming_normal_(conv->weight, 0, torch::kFanOut, torch::kReLU);
      }
    }
  }

  at::Tensor forward(const Batch& batch) override {
    at::Tensor x = bn1_->forward(conv1_->forward(batch.x)).relu_();
    for (torch::nn::Sequential& layer : layers_) x = layer->forward(x);
    return fc_->forward(x.mean({2, 3}));
  }

 private:
  torch::nn::Conv2d conv1_{nullptr};
  torch::nn::BatchNorm2d bn1_{nullptr};
  std::vector<torch::nn::Sequential> layers_;
  torch::nn::Linear fc_{nullptr};
};

}  // namespace

std::shared_ptr<Model> make_resnet18(const ModelOptions&, const DataShape& shape) {
  return std::make_shared<ResNet>(shape, std::vector<int64_t>{2, 2, 2, 2});
}

}  // namespace rekindle
