// SPDX-License-Identifier: Apache-2.0
#include <ATen/ops/cross_entropy_loss.h>
#include <ATen/ops/rand.h>
#include <ATen/ops/zeros.h>
#include <gmock/gmock.h>
#include <torch/nn/modules/linear.h>

#include "core/error.h"
#include "models/model.h"

namespace rekindle {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

std::vector<std::string> names(const Model& model) {
  std::vector<std::string> all;
  for (const auto& item : model.named_parameters()) all.push_back(item.key());
  for (const auto& item : model.named_buffers()) all.push_back(item.key());
  return all;
}

Batch batch(std::vector<int64_t> shape, int64_t classes) {
  at::Tensor y = at::zeros({shape[0]}, at::kLong);
  for (int64_t i = 0; i < shape[0]; ++i) y.data_ptr<int64_t>()[i] = i % classes;
  return {at::rand(shape), y};
}

TEST(Models, MlpNamesAndShapes) {
  const auto model = make_model({"mlp", {{"hidden", std::vector<int64_t>{20, 30}}}}, {{1, 4, 4}, 7});
  EXPECT_THAT(names(*model), ElementsAre("layers.0.weight", "layers.0.bias", "layers.1.weight",
                                         "layers.1.bias", "layers.2.weight", "layers.2.bias"));
  EXPECT_EQ(model->forward(batch({5, 1, 4, 4}, 7)).sizes(), (std::vector<int64_t>{5, 7}));
}

TEST(Models, MlpWithBatchNormAndDropout) {
  const auto model = make_model(
      {"mlp", {{"hidden", std::vector<int64_t>{20}}, {"batch_norm", true}, {"dropout", 0.5}}}, {{16}, 3});
  EXPECT_THAT(names(*model), testing::IsSupersetOf({"norms.0.weight", "norms.0.running_mean"}));
  const Batch input = batch({8, 16}, 3);
  EXPECT_FALSE(model->forward(input).equal(model->forward(input)));  // training: dropout differs
  model->eval();
  EXPECT_TRUE(model->forward(input).equal(model->forward(input)));
}

TEST(Models, LossIsMeanCrossEntropy) {
  const auto model = make_model({"logistic", {}}, {{16}, 3});
  EXPECT_THAT(names(*model), ElementsAre("linear.weight", "linear.bias"));
  const Batch input = batch({8, 16}, 3);
  EXPECT_TRUE(model->loss(input).equal(at::cross_entropy_loss(model->forward(input), input.y)));
}

TEST(Models, ResNet18IsNamedAndSizedAsTorchvisions) {
  const auto model = make_model({"resnet18", {}}, {{3, 32, 32}, 10});
  int64_t elements = 0;
  for (const auto& parameter : model->parameters()) elements += parameter.numel();
  EXPECT_EQ(elements, 11173962);  // torchvision's resnet18 with 10 classes and a 3x3 stem
  EXPECT_THAT(names(*model),
              testing::IsSupersetOf({"conv1.weight", "bn1.running_var", "layer1.0.conv1.weight",
                                     "layer2.0.downsample.0.weight", "layer4.1.bn2.bias", "fc.weight"}));
  EXPECT_EQ(model->forward(batch({2, 3, 16, 16}, 10)).sizes(), (std::vector<int64_t>{2, 10}));
  EXPECT_THROW(make_model({"resnet18", {}}, {{784}, 10}), Error);
}

TEST(Models, ASlipIsFound) {
  try {
    make_model({"resnet", {}}, {{16}, 3});
    FAIL();
  } catch (const Error& error) {
    EXPECT_THAT(error.what(), HasSubstr("did you mean 'resnet18'?"));
  }
  try {
    make_model({"mlp", {{"hiden", int64_t{3}}}}, {{16}, 3});
    FAIL();
  } catch (const Error& error) {
    EXPECT_THAT(error.what(), HasSubstr("has no key hiden"));
  }
  EXPECT_THROW(make_model({"mlp", {{"hidden", std::string("many")}}}, {{16}, 3}), Error);
}

class Own : public Model {
 public:
  Own(const ModelOptions& options, const DataShape& data)
      : head_(register_module(
            "head", torch::nn::Linear(data.features(), options.integer("width", data.classes())))) {}
  at::Tensor forward(const Batch& input) override { return head_->forward(input.x); }

 private:
  torch::nn::Linear head_;
};
REKINDLE_MODEL("own", Own);

TEST(Models, YourOwnStandsBesideTheBuiltInOnes) {
  const auto model = make_model({"own", {{"width", int64_t{5}}}}, {{16}, 3});
  EXPECT_EQ(model->forward(batch({2, 16}, 3)).sizes(), (std::vector<int64_t>{2, 5}));
  EXPECT_THROW(register_model("mlp", nullptr), Error);
}

}  // namespace
}  // namespace rekindle
