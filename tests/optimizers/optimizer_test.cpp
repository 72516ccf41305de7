// SPDX-License-Identifier: Apache-2.0
// Against the formulas in float64, element by element; PyTorch itself is the oracle of tests/end_to_end.
#include "optimizers/optimizer.h"

#include <ATen/ops/zeros.h>
#include <gtest/gtest.h>

#include <cmath>

#include "core/error.h"
#include "core/text.h"

namespace rekindle {
namespace {

FlatLayout layout() {
  FlatLayout layout;
  layout.append("a.weight", {50, 100});
  layout.append("a.bias", {50});
  layout.append("b.weight", {10, 50});
  return layout;
}

float parameter(int64_t i) {
  return std::sin(static_cast<float>(i)) / 2;
}
float gradient(int64_t i, int step) {
  return std::cos(static_cast<float>(i * 3 + step * 7)) / 3;
}

// Trains `world` shards side by side on one flat line, as ranks of a node do.
at::Tensor train(const OptimizerOptions& options, int world, int steps, double lr, double divisor) {
  const FlatLayout line = layout();
  at::Tensor parameters = at::zeros({line.size()}, at::kFloat),
             gradients = at::zeros({line.size()}, at::kFloat);
  for (const auto& entry : line.entries()) {
    for (int64_t i = entry.range.begin; i < entry.range.end; ++i)
      parameters.data_ptr<float>()[i] = parameter(i);
  }
  const std::vector<Range> buckets = line.buckets(1, 1, 4);
  std::vector<std::unique_ptr<Optimizer>> shards;
  for (int rank = 0; rank < world; ++rank) {
    std::vector<Range> slices;
    for (const Range& bucket : buckets) slices.push_back(FlatLayout::slice(bucket, rank, world));
    shards.push_back(Optimizer::create(options, line, parameters, gradients, slices));
  }
  for (int step = 0; step < steps; ++step) {
    for (const auto& entry : line.entries()) {
      for (int64_t i = entry.range.begin; i < entry.range.end; ++i)
        gradients.data_ptr<float>()[i] = gradient(i, step);
    }
    for (auto& shard : shards) {
      shard->start_step(lr, divisor);
      for (size_t slice = 0; slice < buckets.size(); ++slice) shard->update(slice);
    }
  }
  return parameters;
}

struct Formula {
  double theta, buffer = 0, second = 0;

  void sgd(const OptimizerOptions& o, double g, double lr, double decay) {
    g += decay * theta;
    buffer = o.momentum * buffer + g;
    theta -= lr * (o.nesterov ? g + o.momentum * buffer : o.momentum != 0 ? buffer : g);
  }
  void adamw(const OptimizerOptions& o, double g, double lr, double decay, int t) {
    theta *= 1 - lr * decay;
    buffer = o.beta1 * buffer + (1 - o.beta1) * g;
    second = o.beta2 * second + (1 - o.beta2) * g * g;
    const double mean = buffer / (1 - std::pow(o.beta1, t)), variance = second / (1 - std::pow(o.beta2, t));
    theta -= lr * mean / (std::sqrt(variance) + o.eps);
  }
};

void check(const OptimizerOptions& options, int world, double divisor = 1) {
  const int steps = 50;
  const double lr = 0.01;
  const at::Tensor trained = train(options, world, steps, lr, divisor);
  const FlatLayout line = layout();
  for (const auto& entry : line.entries()) {
    const double decay = decays(options, entry) ? options.weight_decay : 0;
    for (int64_t i = entry.range.begin; i < entry.range.end; i += 17) {
      Formula formula{parameter(i)};
      for (int step = 0; step < steps; ++step) {
        const double g = gradient(i, step) / divisor;
        options.name == "sgd" ? formula.sgd(options, g, lr, decay)
                              : formula.adamw(options, g, lr, decay, step + 1);
      }
      ASSERT_NEAR(trained.data_ptr<float>()[i], formula.theta, 2e-5)
          << options.name << " " << entry.name << " " << i;
    }
  }
  for (size_t e = 0; e + 1 < line.entries().size(); ++e) {  // padding stays zero
    for (int64_t i = line.entries()[e].range.end; i < line.entries()[e + 1].range.begin; ++i) {
      ASSERT_EQ(trained.data_ptr<float>()[i], 0);
    }
  }
}

OptimizerOptions sgd(double momentum, bool nesterov, double weight_decay) {
  OptimizerOptions options;
  options.momentum = momentum;
  options.nesterov = nesterov;
  options.weight_decay = weight_decay;
  return options;
}

OptimizerOptions adamw(double weight_decay) {
  OptimizerOptions options;
  options.name = "adamw";
  options.weight_decay = weight_decay;
  return options;
}

TEST(Optimizer, FollowsTheFormulas) {
  for (const int world : {1, 2, 3}) {
    check(sgd(0, false, 0), world);
    check(sgd(0.9, false, 0.1), world);
    check(sgd(0.9, true, 0.1), world);
    check(adamw(0.1), world);
  }
  check(sgd(0.9, false, 0.1), 2, 3.0);  // clipped: the gradient is divided first
  check(adamw(0.1), 2, 3.0);
}

TEST(Optimizer, ShardsGiveTheBitsOfTheWhole) {
  for (const OptimizerOptions& options : {sgd(0.9, false, 0.1), adamw(0.1)}) {
    const at::Tensor whole = train(options, 1, 20, 0.01, 1);
    for (const int world : {2, 3, 4, 7})
      EXPECT_TRUE(whole.equal(train(options, world, 20, 0.01, 1))) << world;
  }
}

TEST(Optimizer, DecayLeavesVectorsAloneUnlessTold) {
  const FlatLayout line = layout();
  OptimizerOptions options = sgd(0.9, false, 0.1);
  EXPECT_TRUE(decays(options, line.entries()[0]));
  EXPECT_FALSE(decays(options, line.entries()[1]));
  options.no_decay = std::vector<std::string>{};
  EXPECT_TRUE(decays(options, line.entries()[1]));
  options.no_decay = std::vector<std::string>{"b.*"};
  EXPECT_TRUE(decays(options, line.entries()[0]));
  EXPECT_FALSE(decays(options, line.entries()[2]));
}

TEST(Optimizer, WhatIsUntouchedStaysAsItIs) {
  const FlatLayout line = layout();
  for (const OptimizerOptions& options : {sgd(0.9, false, 0.1), adamw(0.1)}) {
    at::Tensor flat = at::zeros({line.size()}, at::kFloat), gradient = at::zeros({line.size()}, at::kFloat);
    flat.fill_(1), gradient.fill_(0.5);
    const auto optimizer = Optimizer::create(options, line, flat, gradient, {{0, line.size()}});
    const auto& entries = line.entries();
    const Range hole{entries[1].range.begin, entries[2].range.begin};
    optimizer->start_step(0.1, 2, {hole});
    optimizer->update(0);
    EXPECT_TRUE(flat.narrow(0, hole.begin, hole.size()).eq(1).all().item<bool>());
    EXPECT_TRUE(flat.narrow(0, 0, hole.begin).lt(1).all().item<bool>());
    EXPECT_TRUE(flat.narrow(0, hole.end, line.size() - hole.end).lt(1).all().item<bool>());
    for (const auto& segment : optimizer->segments()) {
      const Range part = segment.range.intersect(hole);
      if (part.empty()) continue;
      const at::Tensor moment = segment.moments[0].narrow(0, part.begin - segment.range.begin, part.size());
      EXPECT_TRUE(moment.eq(0).all().item<bool>());
    }
  }
}

TEST(Optimizer, StateIsOnlyOfTheOwnPart) {
  const FlatLayout line = layout();
  at::Tensor flat = at::zeros({line.size()}, at::kFloat);
  int64_t elements = 0;
  for (int rank = 0; rank < 2; ++rank) {
    const auto shard =
        Optimizer::create(adamw(0), line, flat, flat, {FlatLayout::slice({0, line.size()}, rank, 2)});
    EXPECT_EQ(shard->moment_names(), (std::vector<std::string>{"exp_avg", "exp_avg_sq"}));
    for (const auto& segment : shard->segments()) elements += segment.moments[0].numel();
  }
  EXPECT_EQ(elements, line.size());
}

TEST(Glob, MatchesAllOfTheName) {
  EXPECT_TRUE(matches_glob("*.bias", "layers.0.bias"));
  EXPECT_FALSE(matches_glob("*.bias", "layers.0.bias2"));
  EXPECT_TRUE(matches_glob("layers.?.weight", "layers.3.weight"));
}

}  // namespace
}  // namespace rekindle
