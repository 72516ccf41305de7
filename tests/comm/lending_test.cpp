// SPDX-License-Identifier: Apache-2.0
#include "comm/lending.h"

#include <ATen/ops/addmm.h>
#include <ATen/ops/linear.h>
#include <ATen/ops/randint.h>
#include <ATen/ops/randn.h>
#include <gtest/gtest.h>
#include <torch/autograd.h>
#include <torch/nn/functional/linear.h>
#include <torch/nn/modules/embedding.h>
#include <torch/nn/modules/linear.h>

#include <functional>
#include <string>
#include <vector>

#include "comm/gradient_reducer.h"
#include "comm/thread_communicator.h"

namespace rekindle {
namespace {

using torch::nn::Embedding, torch::nn::EmbeddingOptions, torch::nn::Linear, torch::nn::LinearOptions;

// A module, and how a loss comes from it.
struct Case {
  std::string name;
  std::function<std::shared_ptr<torch::nn::Module>()> make;
  std::function<at::Tensor(torch::nn::Module&, const at::Tensor&)> output;
  at::Tensor input;
  bool lends = true;
};

at::Tensor by_module(torch::nn::Module& module, const at::Tensor& x) {
  if (auto* linear = module.as<torch::nn::LinearImpl>()) return linear->forward(x);
  return module.as<torch::nn::EmbeddingImpl>()->forward(x);
}

std::vector<Case> cases() {
  const auto linear = [](int64_t in, int64_t out, bool bias = true) {
    return [=] { return Linear(LinearOptions(in, out).bias(bias)).ptr(); };
  };
  const auto words = [](EmbeddingOptions options) { return [=] { return Embedding(options).ptr(); }; };
  const auto by_at_linear = [](torch::nn::Module& module, const at::Tensor& x) {
    return at::linear(x, module.as<torch::nn::LinearImpl>()->weight,
                      module.as<torch::nn::LinearImpl>()->bias);
  };
  const auto scaled = [](torch::nn::Module& module, const at::Tensor& x) {
    auto* layer = module.as<torch::nn::LinearImpl>();
    return at::addmm(layer->bias, x, layer->weight.t(), /*beta=*/2, /*alpha=*/3);
  };
  // Gradients end at a view that was made without them.
  const auto by_stopped_view = [](torch::nn::Module& module, const at::Tensor& x) {
    auto* layer = module.as<torch::nn::LinearImpl>();
    at::Tensor transposed;
    {
      const at::NoGradGuard guard;
      transposed = layer->weight.t();
    }
    return at::addmm(layer->bias, x, transposed) + at::linear(x, layer->weight);
  };
  const auto by_hooked_view = [](torch::nn::Module& module, const at::Tensor& x) {
    auto* layer = module.as<torch::nn::LinearImpl>();
    at::Tensor transposed = layer->weight.t();
    transposed.register_hook([](const at::Tensor& gradient) { return gradient * 2; });
    return at::addmm(layer->bias, x, transposed);
  };
  const auto by_hooked_weight = [](torch::nn::Module& module, const at::Tensor& x) {
    auto* layer = module.as<torch::nn::LinearImpl>();
    layer->weight.register_hook([](const at::Tensor& gradient) { return gradient * 2; });
    return layer->forward(x);
  };
  // A weight that changes between forward and backward, which do not need it again.
  const auto then_changed = [](torch::nn::Module& module, const at::Tensor& x) {
    auto* layer = module.as<torch::nn::LinearImpl>();
    const at::Tensor y = layer->forward(x.detach());
    const at::NoGradGuard guard;
    layer->weight.clamp_(-10, 10);
    return y;
  };
  const auto broadcast = [](torch::nn::Module& module, const at::Tensor& x) {
    auto* layer = module.as<torch::nn::LinearImpl>();
    return at::addmm(layer->bias.narrow(0, 0, 1), x, layer->weight.t());
  };
  const auto of_sparse = [](torch::nn::Module& module, const at::Tensor& x) {
    return module.as<torch::nn::LinearImpl>()->forward(x.to_sparse());
  };
  const auto untransposed = [](torch::nn::Module& module, const at::Tensor& x) {
    return x.matmul(module.as<torch::nn::LinearImpl>()->weight);
  };
  // To bound the norms changes the weight in place.
  const auto twice = [](torch::nn::Module& module, const at::Tensor& x) {
    auto* words = module.as<torch::nn::EmbeddingImpl>();
    return words->forward(x) + words->forward(x.flip(0));
  };
  const at::Tensor numbers = at::randint(40, {4, 6}, at::kLong);
  return {
      {"linear", linear(20, 30), by_module, at::randn({5, 20})},
      {"linear, at::", linear(20, 30), by_at_linear, at::randn({5, 20})},
      {"linear without bias", linear(20, 30, false), by_module, at::randn({5, 20})},
      {"linear of sequences", linear(20, 30), by_module, at::randn({5, 7, 20})},
      {"linear of one sample", linear(20, 30), by_module, at::randn({20})},
      {"linear of nothing", linear(20, 30), by_module, at::randn({0, 20})},
      {"square linear", linear(20, 20), by_module, at::randn({5, 20})},
      {"large linear", linear(500, 400), by_module, at::randn({5, 500})},
      {"large linear of sequences", linear(500, 400), by_module, at::randn({5, 3, 500})},
      {"large linear without bias", linear(500, 400, false), by_module, at::randn({5, 500})},
      {"scaled product", linear(20, 30), scaled, at::randn({5, 20}), false},
      {"product with the weight itself", linear(20, 20, false), untransposed, at::randn({5, 20}), false},
      {"view without gradients", linear(20, 30), by_stopped_view, at::randn({5, 20})},
      {"hooked view", linear(20, 30), by_hooked_view, at::randn({5, 20}), false},
      {"hooked weight", linear(20, 30), by_hooked_weight, at::randn({5, 20}), false},
      {"changed weight", linear(20, 30), then_changed, at::randn({5, 20})},
      {"broadcast bias", linear(500, 400), broadcast, at::randn({5, 500}), false},
      {"sparse input", linear(20, 30), of_sparse, at::randn({5, 20}), false},
      {"large sparse input", linear(500, 400), of_sparse, at::randn({5, 500}), false},
      {"embedding", words(EmbeddingOptions(40, 6)), by_module, numbers},
      {"embedding of one", words(EmbeddingOptions(40, 6)), by_module, numbers[0][0]},
      {"embedding of bounded norm", words(EmbeddingOptions(40, 6).max_norm(1)), twice, numbers, false},
      {"embedding with padding", words(EmbeddingOptions(40, 6).padding_idx(3)), by_module, numbers, false},
      {"embedding by frequency", words(EmbeddingOptions(40, 6).scale_grad_by_freq(true)), by_module, numbers,
       false},
  };
}

at::Tensor loss_of(const Case& one, torch::nn::Module& module, const at::Tensor& x) {
  const at::Tensor y = one.output(module, x);
  return (y * y).sum();
}

void expect_near(const at::Tensor& a, const at::Tensor& b, const std::string& what) {
  ASSERT_EQ(a.sizes(), b.sizes()) << what;
  EXPECT_TRUE(a.allclose(b, 1e-4, 1e-4)) << what << ": " << (a - b).abs().max();
}

TEST(Lending, GivesTheGradientsOfPlainAutogradInPlace) {
  for (const Case& one : cases()) {
    // Without a reducer, and so without hooks.
    const auto plain = one.make();
    at::Tensor x = one.input.detach().clone();
    if (x.is_floating_point()) x.requires_grad_(true);
    loss_of(one, *plain, x).backward();

    run_as_threads(1, {}, [&](Communicator& communicator) {
      const auto module = plain->clone();
      std::vector<std::pair<std::string, at::Tensor>> named;
      for (const auto& parameter : module->named_parameters()) {
        parameter.value().mutable_grad().reset();
        named.emplace_back(parameter.key(), parameter.value());
      }
      FlatParameters parameters(communicator, named);
      const SumPlan plan = SumPlan::in_order_of_ranks(1);
      GradientReducer reducer(communicator, parameters, plan);
      at::Tensor again = one.input.detach().clone();
      if (again.is_floating_point()) again.requires_grad_(true);
      reducer.start_step();
      reducer.start_leaf(1);
      loss_of(one, *module, again).backward();
      reducer.end_passes();
      reducer.finish();
      EXPECT_EQ(reducer.copied(), static_cast<int64_t>(named.size()) - one.lends) << one.name;
      for (size_t i = 0; i < named.size(); ++i) {
        const FlatLayout::Entry& entry = parameters.layout().entries()[i];
        const at::Tensor sum = reducer.gradient().narrow(0, entry.range.begin, entry.range.size());
        expect_near(sum.view(entry.shape), plain->named_parameters()[named[i].first].grad(),
                    one.name + ", " + named[i].first);
      }
      if (x.grad().defined()) expect_near(again.grad(), x.grad(), one.name + ", input");
      const at::NoGradGuard guard;
      expect_near(one.output(*module, again), one.output(*plain, x), one.name + ", without gradients");
    });
  }
}

// What a caller asks for is the caller's: the next pass does not write into it.
TEST(Lending, AGradientThatIsAskedForIsNotLent) {
  run_as_threads(1, {}, [&](Communicator& communicator) {
    const auto module = std::make_shared<torch::nn::LinearImpl>(4, 3);
    const std::vector<std::pair<std::string, at::Tensor>> named{{"weight", module->weight},
                                                                {"bias", module->bias}};
    FlatParameters parameters(communicator, named);
    const SumPlan plan = SumPlan::in_order_of_ranks(1);
    GradientReducer reducer(communicator, parameters, plan);
    reducer.start_step();
    reducer.start_leaf(1);
    const at::Tensor loss = module->forward(at::randn({2, 4})).sum();
    const at::Tensor asked = torch::autograd::grad({loss}, {module->weight}, {}, /*retain_graph=*/true)[0];
    const at::Tensor before = asked.clone();
    (loss * 2).backward();
    reducer.end_passes();
    reducer.finish();
    EXPECT_TRUE(asked.equal(before));
    expect_near(reducer.gradient().narrow(0, 0, 12).view({3, 4}), asked * 2, "weight");
  });
}

// A penalty on a gradient, as some losses have.
TEST(Lending, GradientsOfGradientsAreThoseOfPlainAutograd) {
  const auto penalty = [](torch::nn::LinearImpl& layer, const at::Tensor& x) {
    const at::Tensor y = layer.forward(x).pow(3).sum();
    return torch::autograd::grad({y}, {layer.weight}, {}, /*retain_graph=*/true, /*create_graph=*/true)[0]
        .square()
        .sum();
  };
  const auto plain = std::make_shared<torch::nn::LinearImpl>(4, 3);
  const at::Tensor x = at::randn({2, 4});
  penalty(*plain, x).backward();
  run_as_threads(1, {}, [&](Communicator& communicator) {
    auto module = std::dynamic_pointer_cast<torch::nn::LinearImpl>(plain->clone());
    std::vector<std::pair<std::string, at::Tensor>> named{{"weight", module->weight}, {"bias", module->bias}};
    for (auto& [name, parameter] : named) parameter.mutable_grad().reset();
    FlatParameters parameters(communicator, named);
    const SumPlan plan = SumPlan::in_order_of_ranks(1);
    GradientReducer reducer(communicator, parameters, plan);
    reducer.start_step();
    reducer.start_leaf(1);
    penalty(*module, x).backward();
    reducer.end_passes();
    reducer.finish();
    expect_near(reducer.gradient().narrow(0, 0, 12).view({3, 4}), plain->weight.grad(), "penalty");
  });
}

}  // namespace
}  // namespace rekindle
