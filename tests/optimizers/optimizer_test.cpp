// SPDX-License-Identifier: Apache-2.0
// Against the formulas in float64, element by element; PyTorch itself is the oracle of tests/end_to_end.
#include "optimizers/optimizer.h"

#include <ATen/ops/zeros.h>
#include <ATen/ops/zeros_like.h>
#include <gtest/gtest.h>

#include <algorithm>
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

// One step of the shards of a flat line, as the training loop does it.
void take_step(std::vector<std::unique_ptr<Optimizer>>& shards, size_t slices, double lr, double divisor,
               const std::vector<Range>& untouched = {}) {
  for (auto& shard : shards)
    shard->start_step({.lr = lr, .gradient_divisor = divisor, .untouched = untouched});
  if (shards.front()->looks_at_norms()) {
    for (auto& shard : shards) shard->measure();
    const at::Tensor sum = at::zeros_like(shards.front()->squares());
    for (auto& shard : shards) sum.add_(shard->squares());
    for (auto& shard : shards) shard->squares().copy_(sum);
  }
  for (auto& shard : shards)
    for (size_t slice = 0; slice < slices; ++slice) shard->update(slice);
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
    take_step(shards, buckets.size(), lr, divisor);
  }
  return parameters;
}

double norm(const std::vector<double>& values) {
  double sum = 0;
  for (const double value : values) sum += value * value;
  return std::sqrt(sum);
}

// A whole parameter, by the papers' formulas.
struct Formula {
  std::vector<double> theta, buffer, second;

  explicit Formula(std::vector<double> start)
      : theta(std::move(start)), buffer(theta.size()), second(theta.size()) {}

  void step(const OptimizerOptions& o, const std::vector<double>& g, double lr, double decay, bool adapts,
            int t) {
    if (o.name == "sgd") return sgd(o, g, lr, decay);
    if (o.name == "lars") return lars(o, g, lr, decay, adapts);
    std::vector<double> direction(theta.size());
    for (size_t i = 0; i < theta.size(); ++i) {
      const double with_decay = g[i] + (o.name == "adam" ? decay * theta[i] : 0);
      buffer[i] = o.beta1 * buffer[i] + (1 - o.beta1) * with_decay;
      second[i] = o.beta2 * second[i] + (1 - o.beta2) * with_decay * with_decay;
      const double mean = buffer[i] / (1 - std::pow(o.beta1, t));
      const double variance = second[i] / (1 - std::pow(o.beta2, t));
      direction[i] = mean / (std::sqrt(variance) + o.eps) + (o.name == "adam" ? 0 : decay * theta[i]);
    }
    const double ratio = o.name == "lamb" && adapts ? norm(theta) / norm(direction) : 1;
    for (size_t i = 0; i < theta.size(); ++i) theta[i] -= lr * ratio * direction[i];
  }

 private:
  void sgd(const OptimizerOptions& o, const std::vector<double>& g, double lr, double decay) {
    for (size_t i = 0; i < theta.size(); ++i) {
      const double with_decay = g[i] + decay * theta[i];
      buffer[i] = o.momentum * buffer[i] + with_decay;
      theta[i] -= lr * (o.nesterov        ? with_decay + o.momentum * buffer[i]
                        : o.momentum != 0 ? buffer[i]
                                          : with_decay);
    }
  }
  void lars(const OptimizerOptions& o, const std::vector<double>& g, double lr, double decay, bool adapts) {
    const double ratio = adapts ? o.trust_coefficient * norm(theta) / (norm(g) + decay * norm(theta)) : 1;
    for (size_t i = 0; i < theta.size(); ++i) {
      buffer[i] = o.momentum * buffer[i] + lr * ratio * (g[i] + decay * theta[i]);
      theta[i] -= buffer[i];
    }
  }
};

void check(const OptimizerOptions& options, int world, double divisor = 1) {
  const int steps = 200;
  const double lr = 0.01;
  const at::Tensor trained = train(options, world, steps, lr, divisor);
  const FlatLayout line = layout();
  const std::vector<Treatment> treatment = treatments(options, line);
  for (size_t e = 0; e < line.entries().size(); ++e) {
    const auto& entry = line.entries()[e];
    std::vector<double> start;
    for (int64_t i = entry.range.begin; i < entry.range.end; ++i) start.push_back(parameter(i));
    Formula formula(start);
    for (int step = 0; step < steps; ++step) {
      std::vector<double> g;
      for (int64_t i = entry.range.begin; i < entry.range.end; ++i) {
        const double most = options.max_grad_value > 0 ? options.max_grad_value : 1e9;
        g.push_back(std::clamp(gradient(i, step) / divisor, -most, most));
      }
      formula.step(options, g, lr * treatment[e].lr_factor, treatment[e].weight_decay, treatment[e].adapts,
                   step + 1);
    }
    for (int64_t i = entry.range.begin; i < entry.range.end; ++i) {
      ASSERT_NEAR(trained.data_ptr<float>()[i], formula.theta[i - entry.range.begin], 4e-5)
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

OptimizerOptions named(const std::string& name, double weight_decay) {
  OptimizerOptions options;
  options.name = name;
  options.weight_decay = weight_decay;
  if (name == "lars") options.momentum = 0.9;
  if (name == "lars") options.trust_coefficient = 0.1;  // so that something moves
  return options;
}

OptimizerOptions adamw(double weight_decay) {
  return named("adamw", weight_decay);
}

TEST(Optimizer, FollowsTheFormulas) {
  for (const int world : {1, 2, 3}) {
    check(sgd(0, false, 0), world);
    check(sgd(0.9, false, 0.1), world);
    check(sgd(0.9, true, 0.1), world);
    for (const char* name : {"adam", "adamw", "lars", "lamb"}) check(named(name, 0.1), world);
  }
  check(sgd(0.9, false, 0.1), 2, 3.0);  // clipped: the gradient is divided first
  for (const char* name : {"adam", "adamw", "lars", "lamb"}) check(named(name, 0.1), 2, 3.0);
}

std::vector<OptimizerOptions> every_rule() {
  return {sgd(0.9, false, 0.1), named("adam", 0.1), adamw(0.1), named("lars", 0.1), named("lamb", 0.1)};
}

TEST(Optimizer, ElementsAreCutOffAfterTheDivision) {
  for (OptimizerOptions options : every_rule()) {
    options.max_grad_value = 0.07;
    for (const int world : {1, 3}) check(options, world, 2.0);
  }
}

TEST(Optimizer, TheMomentumOfAStepStandsInForThatOfTheOptions) {
  const FlatLayout line = layout();
  for (const OptimizerOptions& options : every_rule()) {
    OptimizerOptions other = options;
    (has_betas(options.name) ? other.beta1 : other.momentum) = 0.6;
    std::vector<at::Tensor> results;
    for (const bool told : {true, false}) {
      at::Tensor flat = at::zeros({line.size()}, at::kFloat), gradient = at::zeros({line.size()}, at::kFloat);
      flat.fill_(1);
      std::vector<std::unique_ptr<Optimizer>> alone;
      alone.push_back(Optimizer::create(told ? options : other, line, flat, gradient, {{0, line.size()}}));
      for (int step = 0; step < 3; ++step) {
        gradient.fill_(0.1 + step);
        alone[0]->start_step({.lr = 0.1, .momentum = told ? std::optional(0.6) : std::nullopt});
        if (alone[0]->looks_at_norms()) alone[0]->measure();
        alone[0]->update(0);
      }
      results.push_back(flat);
    }
    EXPECT_TRUE(results[0].equal(results[1])) << options.name;
  }
}

TEST(Optimizer, TheAverageFollowsTheWeightsAndChangesPlacesWithThem) {
  const FlatLayout line = layout();
  for (OptimizerOptions options : {sgd(0, false, 0), named("lamb", 0.1)}) {
    options.ema_half_life = {1, Unit::kEpochs};
    at::Tensor flat = at::zeros({line.size()}, at::kFloat), gradient = at::zeros({line.size()}, at::kFloat);
    flat.fill_(1), gradient.fill_(0.5);
    std::vector<std::unique_ptr<Optimizer>> shards;
    for (int rank = 0; rank < 2; ++rank) {
      const Range slice = FlatLayout::slice({0, line.size()}, rank, 2);
      shards.push_back(Optimizer::create(options, line, flat, gradient, {slice}));
      EXPECT_EQ(shards.back()->moment_names().back(), kOtherWeights);
      shards.back()->start_average();
    }
    at::Tensor average = flat.clone();
    for (int step = 0; step < 5; ++step) {
      for (auto& shard : shards) shard->start_step({.lr = 0.1, .average_share = 0.25});
      if (shards[0]->looks_at_norms()) {
        for (auto& shard : shards) shard->measure();
        const at::Tensor sum = shards[0]->squares().add(shards[1]->squares());
        for (auto& shard : shards) shard->squares().copy_(sum);
      }
      for (auto& shard : shards) shard->update(0);
      average.add_(flat.sub(average), 0.25);
    }
    const at::Tensor trained = flat.clone();
    for (auto& shard : shards) shard->swap_average();
    EXPECT_TRUE(flat.allclose(average, 1e-6, 1e-7)) << options.name;
    EXPECT_FALSE(flat.equal(trained));
    for (auto& shard : shards) shard->swap_average();
    EXPECT_TRUE(flat.equal(trained));
  }
}

TEST(Optimizer, ShardsGiveTheBitsOfTheWhole) {
  for (OptimizerOptions options : every_rule()) {
    options.max_grad_value = 0.2;
    const at::Tensor whole = train(options, 1, 20, 0.01, 1);
    for (const int world : {2, 3, 4, 7})
      EXPECT_TRUE(whole.equal(train(options, world, 20, 0.01, 1))) << options.name << " " << world;
  }
}

TEST(Groups, TheFirstThatMatchesAParameterHasIt) {
  OptimizerOptions options = adamw(0.1);
  options.groups = {{{"b.*"}, 3, 0.5, false}, {{"b.weight", "a.*"}, 0.1, {}, false}};
  for (const char* rule : {"adamw", "lamb"}) {
    options.name = rule;
    for (const int world : {1, 2, 3}) check(options, world);
  }
  const std::vector<Treatment> all = treatments(options, layout());
  EXPECT_EQ(all[0], (Treatment{0.1, 0.1, true}));
  EXPECT_EQ(all[1], (Treatment{0.1, 0, false}));  // a vector
  EXPECT_EQ(all[2], (Treatment{3, 0.5, true}));
  const std::vector<std::string> names{"a.weight", "a.bias", "b.weight"};
  EXPECT_NO_THROW(check_groups(options, names));
  options.groups.push_back({{"c.*"}, 1, {}, false});
  EXPECT_THROW(check_groups(options, names), Error);
  options.groups.back() = {{"a.bias"}, 1, {}, true};  // an earlier one has it
  EXPECT_THROW(check_groups(options, names), Error);
  options.groups.clear();
  options.no_decay = {{"*.norm", "*.bias"}};
  EXPECT_NO_THROW(check_groups(options, names));
  options.no_decay = {{"*.norm"}};
  EXPECT_THROW(check_groups(options, names), Error);
  options.no_decay = {std::vector<std::string>()};
  EXPECT_NO_THROW(check_groups(options, names));
}

TEST(Groups, TheRateOfALayerFallsWithItsDistanceFromTheOutput) {
  FlatLayout deep;
  for (const char* name : {"embeddings.word.weight", "encoder.layer.0.a.weight", "encoder.layer.0.b.weight",
                           "encoder.layer.1.a.weight", "encoder.layer.1.a.bias", "head.weight"})
    deep.append(name, {2, 2});
  EXPECT_EQ(layers_of(deep), (std::vector<int>{0, 1, 1, 2, 2, 3}));
  const auto layers = [](const std::vector<std::string>& matrices, const std::vector<std::string>& vectors) {
    FlatLayout layout;
    for (const std::string& name : matrices) layout.append(name, {2, 2});
    for (const std::string& name : vectors) layout.append(name, {2});
    return layers_of(layout);
  };
  EXPECT_EQ(layers({"layers.0.weight", "layers.1.weight", "layers.2.weight"},
                   {"layers.0.bias", "norms.0.weight", "norms.1.weight"}),
            (std::vector<int>{0, 1, 2, 0, 0, 1}));
  EXPECT_EQ(layers({"conv.weight", "layer1.0.conv.weight", "layer1.1.conv.weight", "layer2.0.conv.weight"},
                   {"layer2.0.norm.weight"}),
            (std::vector<int>{0, 1, 2, 3, 3}));
  EXPECT_EQ(
      layers({"features.0.weight", "features.3.weight", "classifier.0.weight", "classifier.3.weight"}, {}),
      (std::vector<int>{0, 1, 2, 3}));
  EXPECT_EQ(layers({"encoder.0.a.weight", "encoder.1.a.weight", "decoder.0.a.weight"}, {"decoder.0.a.bias"}),
            (std::vector<int>{0, 1, 2, 2}));
  OptimizerOptions options = sgd(0.9, false, 0.1);
  options.layer_decay = 0.5;
  std::vector<double> factors;
  for (const Treatment& treatment : treatments(options, deep)) factors.push_back(treatment.lr_factor);
  EXPECT_EQ(factors, (std::vector<double>{0.125, 0.25, 0.25, 0.5, 0.5, 1}));
  for (const int world : {1, 3}) check(options, world);
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
  for (const OptimizerOptions& options : every_rule()) {
    at::Tensor flat = at::zeros({line.size()}, at::kFloat), gradient = at::zeros({line.size()}, at::kFloat);
    flat.fill_(1), gradient.fill_(0.5);
    std::vector<std::unique_ptr<Optimizer>> alone;
    alone.push_back(Optimizer::create(options, line, flat, gradient, {{0, line.size()}}));
    const auto& entries = line.entries();
    const Range hole{entries[1].range.begin, entries[2].range.begin};
    take_step(alone, 1, 0.1, 2, {hole});
    EXPECT_TRUE(flat.narrow(0, hole.begin, hole.size()).eq(1).all().item<bool>());
    EXPECT_TRUE(flat.narrow(0, 0, hole.begin).lt(1).all().item<bool>());
    EXPECT_TRUE(flat.narrow(0, hole.end, line.size() - hole.end).lt(1).all().item<bool>());
    for (const auto& segment : alone.front()->segments()) {
      const Range part = segment.range.intersect(hole);
      if (part.empty()) continue;
      const at::Tensor moment = segment.moments[0].narrow(0, part.begin - segment.range.begin, part.size());
      EXPECT_TRUE(moment.eq(0).all().item<bool>());
    }
  }
}

// As PyTorch's: what joins later begins with its own first step, also in a run that is resumed.
TEST(Optimizer, AParameterCountsTheStepsThatItTookPartIn) {
  const FlatLayout line = layout();
  const Range late{line.entries()[1].range.begin, line.entries()[2].range.begin};
  for (const OptimizerOptions& options : every_rule()) {
    const auto run = [&](int from, bool resumed) {
      at::Tensor flat = at::zeros({line.size()}, at::kFloat), gradient = at::zeros({line.size()}, at::kFloat);
      flat.fill_(1);
      std::vector<std::unique_ptr<Optimizer>> alone;
      alone.push_back(Optimizer::create(options, line, flat, gradient, {{0, line.size()}}));
      for (int step = from; step < 6; ++step) {
        gradient.fill_(0.1 + step);
        take_step(alone, 1, 0.1, 1, step < 3 ? std::vector<Range>{late} : std::vector<Range>{});
        if (from == 0 && step >= 2) {
          EXPECT_EQ(alone[0]->missed_steps(), (std::map<std::string, int64_t>{{"a.bias", 3}}));
          if (resumed) alone[0]->set_steps(step + 1, alone[0]->missed_steps());
        }
      }
      return flat;
    };
    const at::Tensor fresh = run(3, false), joined = run(0, false), resumed = run(0, true);
    EXPECT_TRUE(fresh.narrow(0, late.begin, late.size()).equal(joined.narrow(0, late.begin, late.size())))
        << options.name;
    EXPECT_TRUE(joined.equal(resumed)) << options.name;
    EXPECT_FALSE(fresh.equal(joined)) << options.name;
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
