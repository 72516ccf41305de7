// SPDX-License-Identifier: Apache-2.0
#include <rekindle/model.h>
#include <rekindle/worker.h>
#include <torch/nn/modules/linear.h>

class MyNet : public rekindle::Model {  // a torch::nn::Module
 public:
  MyNet(const rekindle::ModelOptions& options, const rekindle::DataShape& data)
      : body_(register_module("body", torch::nn::Linear(data.features(), options.integer("width", 64)))),
        head_(register_module("head", torch::nn::Linear(options.integer("width", 64), data.classes()))) {}

  at::Tensor forward(const rekindle::Batch& batch) override {  // -> logits, [samples, classes]
    return head_(torch::relu(body_(batch.x.flatten(1))));
  }  // loss(batch) is mean cross-entropy unless overridden

 private:
  torch::nn::Linear body_, head_;
};
REKINDLE_MODEL("my-net", MyNet);

int main(int argc, char** argv) {
  return rekindle::worker_main(argc, argv);
}
