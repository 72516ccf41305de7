// SPDX-License-Identifier: Apache-2.0
#include "comm/gradient_reducer.h"

#include <ATen/ops/embedding.h>
#include <ATen/ops/full.h>
#include <ATen/ops/linear.h>
#include <ATen/ops/zeros.h>
#include <ATen/ops/zeros_like.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/csrc/autograd/variable.h>

#include <atomic>
#include <cmath>
#include <functional>
#include <memory>
#include <string>
#include <thread>

#include "comm/thread_communicator.h"
#include "core/error.h"
#include "tests/support/own_copies.h"

namespace rekindle {
namespace {

using ::testing::HasSubstr;

// Two linear layers of whole numbers, so that sums are exact.
struct Net {
  std::vector<std::pair<std::string, at::Tensor>> named;

  explicit Net(bool with_unused = true) {
    add("a.weight", {70, 100});
    add("a.bias", {70});
    add("b.weight", {3, 70});
    if (with_unused) add("unused", {9000});
  }
  void add(const std::string& name, std::vector<int64_t> shape) {
    at::Tensor parameter = at::zeros(shape, at::kFloat);
    for (int64_t i = 0; i < parameter.numel(); ++i)
      parameter.data_ptr<float>()[i] = static_cast<float>(i % 5 - 2);
    parameter.requires_grad_(true);
    named.emplace_back(name, parameter);
  }
  at::Tensor loss(const at::Tensor& x) {
    return at::linear(at::linear(x, named[0].second, named[1].second), named[2].second).sum();
  }
};

at::Tensor input(int rank, int pass) {
  at::Tensor x = at::zeros({2, 100}, at::kFloat);
  for (int64_t i = 0; i < x.numel(); ++i)
    x.data_ptr<float>()[i] = static_cast<float>((i + rank * 3 + pass) % 4);
  return x;
}

// The gradients of all leaves and passes added up, by plain autograd.
std::vector<at::Tensor> expected(const std::vector<int>& passes) {
  Net net;
  for (size_t leaf = 0; leaf < passes.size(); ++leaf) {
    for (int pass = 0; pass < passes[leaf]; ++pass) net.loss(input(static_cast<int>(leaf), pass)).backward();
  }
  std::vector<at::Tensor> gradients;
  for (auto& [name, parameter] : net.named) {
    gradients.push_back(parameter.grad().defined() ? parameter.grad().clone() : at::zeros_like(parameter));
  }
  return gradients;
}

// This rank's leaves of one step.
GradientReducer::Result run_step(GradientReducer& reducer, const SumPlan& plan, int rank,
                                 const std::vector<int>& passes,
                                 const std::function<at::Tensor(int, int)>& loss) {
  reducer.start_step();
  for (int leaf = plan.first_leaf(rank); leaf < plan.first_leaf(rank + 1); ++leaf) {
    reducer.start_leaf(passes[leaf]);
    for (int pass = 0; pass < passes[leaf]; ++pass) loss(leaf, pass).backward();
  }
  reducer.end_passes();
  return reducer.finish();
}

void check_sums(const SumPlan& plan, const std::vector<int>& passes, const ReducerOptions& options,
                bool shared) {
  const std::vector<at::Tensor> want = expected(passes);
  run_as_threads(plan.world(), {}, [&](Communicator& threads) {
    OwnCopies apart(threads);
    Communicator& communicator = shared ? threads : apart;
    Net net;
    FlatParameters parameters(communicator, net.named);
    GradientReducer reducer(communicator, parameters, plan, options);
    for (int step = 0; step < 3; ++step) {
      const double norm = run_step(reducer, plan, communicator.rank(), passes, [&](int leaf, int pass) {
                            return net.loss(input(leaf, pass));
                          }).squared_norm;

      double squares = 0;
      for (size_t i = 0; i < want.size(); ++i) {
        const Range range = parameters.layout().entries()[i].range;
        const float* reduced = reducer.gradient().data_ptr<float>();
        for (int64_t e = 0; e < want[i].numel(); ++e) {
          const float value = want[i].contiguous().data_ptr<float>()[e];
          squares += static_cast<double>(value) * value;
          for (const Range& slice : reducer.slices()) {
            const int64_t at = range.begin + e;
            if (at < slice.begin || at >= slice.end) continue;
            // Thrown, so that no other rank waits for this one.
            if (reduced[at] != value) throw Error(net.named[i].first + " is wrong at " + std::to_string(e));
          }
        }
      }
      EXPECT_EQ(norm, squares);
      EXPECT_FALSE(reducer.is_used(3));
      communicator.barrier("step");
    }
  });
}

void check(const SumPlan& plan, const std::vector<int>& passes, const ReducerOptions& options = {}) {
  for (const bool shared : {true, false}) check_sums(plan, passes, options, shared);
}

TEST(GradientReducer, SumsOverRanksAndPassesInAnyNumberOfBuckets) {
  for (const int64_t bytes : {int64_t{1} << 30, int64_t{40000}, int64_t{1}}) {
    check(SumPlan::in_order_of_ranks(1), {1}, {bytes, bytes});
    check(SumPlan::in_order_of_ranks(2), {1, 1}, {bytes, bytes});
    check(SumPlan::in_order_of_ranks(3), {2, 1, 3}, {bytes, bytes});
  }
}

TEST(GradientReducer, SumsAlongATreeOnAnyWorld) {
  for (const int world : {1, 2, 3, 5, 8}) {
    check(SumPlan::along_tree(8, world), {1, 1, 1, 1, 1, 1, 1, 1}, {.several_passes = false});
    check(SumPlan::along_tree(8, world), {2, 2, 3, 1, 2, 2, 0, 0});
    check(SumPlan::along_tree(8, world), {1, 1, 1, 1, 1, 0, 0, 0}, {.several_passes = false});
  }
  check(SumPlan::along_tree(4, 3), {1, 2, 1, 1}, {1, 1});
}

TEST(GradientReducer, ALeafWithoutSamplesAddsNothing) {
  check(SumPlan::in_order_of_ranks(3), {1, 0, 2});
}

// A net whose sums are rounded, so that their order shows.
std::vector<at::Tensor> rounded_sums(const SumPlan& plan, const std::vector<int>& passes) {
  std::vector<at::Tensor> sums;
  run_as_threads(plan.world(), {}, [&](Communicator& communicator) {
    Net net;
    for (auto& [name, parameter] : net.named) parameter.detach().add_(0.01);
    FlatParameters parameters(communicator, net.named);
    GradientReducer reducer(communicator, parameters, plan, {4000, 40000});
    at::Tensor whole = communicator.allocate_shared(parameters.layout().size(), at::kFloat);
    run_step(reducer, plan, communicator.rank(), passes, [&](int leaf, int pass) {
      const at::Tensor x = input(leaf, pass).mul(1.1 + 0.37 * leaf * leaf + 0.01 * pass);
      return net.loss(x).mul(1e-3).sin();
    });
    for (const Range& slice : reducer.slices()) {
      whole.narrow(0, slice.begin, slice.size())
          .copy_(reducer.gradient().narrow(0, slice.begin, slice.size()));
    }
    communicator.barrier("copied");
    if (communicator.rank() == 0) sums.push_back(whole.clone());
    communicator.barrier("cloned");
  });
  return sums;
}

TEST(GradientReducer, TheTreesBitsDoNotDependOnTheWorld) {
  const std::vector<std::vector<int>> cases{{1, 1, 1, 1, 1, 1, 1, 1}, {2, 1, 3, 1, 2, 2, 1, 0}};
  for (const std::vector<int>& passes : cases) {
    const at::Tensor alone = rounded_sums(SumPlan::along_tree(8, 1), passes)[0];
    ASSERT_GT(alone.abs().sum().item<float>(), 0);
    for (const int world : {2, 3, 4, 5, 6, 7, 8}) {
      EXPECT_TRUE(alone.equal(rounded_sums(SumPlan::along_tree(8, world), passes)[0])) << world;
    }
  }
}

// One layer, used twice where `twice`: autograd then adds two gradients for its weight.
void check_lending(bool twice) {
  run_as_threads(1, {}, [&](Communicator& communicator) {
    std::vector<std::pair<std::string, at::Tensor>> named{{"weight", at::zeros({5, 5}, at::kFloat)}};
    named[0].second.fill_(0.5).requires_grad_(true);
    FlatParameters parameters(communicator, named);
    const SumPlan plan = SumPlan::in_order_of_ranks(1);
    GradientReducer reducer(communicator, parameters, plan);
    const at::Tensor& weight = named[0].second;
    const at::Tensor x = at::full({3, 5}, 2, at::kFloat);
    const auto loss = [&](int, int) {
      const at::Tensor y = at::linear(x, weight);
      return (twice ? at::linear(y, weight) : y).sum();
    };
    run_step(reducer, plan, 0, {1}, loss);
    EXPECT_EQ(reducer.copied(), twice ? 1 : 0);
    // Of y = W x: rows of 3 * 2. Of W (W x): by hand, W's gradient is 15 for the outer use and 15 for the
    // inner.
    EXPECT_TRUE(reducer.gradient().narrow(0, 0, 25).eq(twice ? 30 : 6).all().item<bool>());
  });
}

TEST(GradientReducer, ALinearLayersGradientIsWrittenWhereItIsSummed) {
  check_lending(false);
}

TEST(GradientReducer, AWeightThatIsUsedTwiceGetsBothGradients) {
  check_lending(true);
}

// A step of one pass, on one rank, of the loss that `loss` makes of a [4, 3] weight.
std::string refusal_of(const std::function<at::Tensor(const at::Tensor&)>& loss) {
  std::string said;
  run_as_threads(1, {}, [&](Communicator& communicator) {
    std::vector<std::pair<std::string, at::Tensor>> named{{"weight", at::full({4, 3}, 1, at::kFloat)}};
    named[0].second.requires_grad_(true);
    FlatParameters parameters(communicator, named);
    const SumPlan plan = SumPlan::in_order_of_ranks(1);
    GradientReducer reducer(communicator, parameters, plan);
    reducer.start_step();
    reducer.start_leaf(1);
    try {
      loss(named[0].second).backward();
    } catch (const Error& error) {
      said = error.what();
    }
  });
  return said;
}

TEST(GradientReducer, RefusesGradientsThatItCannotSum) {
  EXPECT_THAT(refusal_of([](const at::Tensor& weight) {
                return at::embedding(weight, at::zeros({2}, at::kLong), -1, false, /*sparse=*/true).sum();
              }),
              HasSubstr("'weight' has a sparse gradient"));
  EXPECT_THAT(refusal_of([](const at::Tensor& weight) {
                weight.sum().backward();
                return weight.sum();
              }),
              HasSubstr("'weight' has a second gradient in one pass"));
}

TEST(GradientReducer, BucketsAreSummedWhileBackwardRuns) {
  // One bucket a parameter. Rank 0 hands in all it has; rank 1 comes later and, when it is about to have the
  // first layer's gradient, finds the last layer's bucket, a block that it owns, summed.
  std::atomic<bool> rank_zero_is_through{false};
  run_as_threads(2, {}, [&](Communicator& communicator) {
    Net net(/*with_unused=*/false);
    const SumPlan plan = SumPlan::in_order_of_ranks(2);
    const std::vector<at::Tensor> want = expected({2, 2});
    FlatParameters parameters(communicator, net.named);
    GradientReducer reducer(communicator, parameters, plan, {1, 1});
    EXPECT_EQ(reducer.buckets().size(), 3u);
    EXPECT_EQ(reducer.buckets().front().end, parameters.layout().size());
    EXPECT_EQ(reducer.buckets().back().begin, 0);
    std::vector<size_t> handed_in;
    bool summed = false;
    net.named[0].second.register_hook([&](const at::Tensor&) {
      handed_in.push_back(reducer.handed_in());
      const Range last = parameters.layout().entries()[2].range;
      const at::Tensor bucket = reducer.gradient().narrow(0, last.begin, last.size()).view({3, 70});
      summed = bucket.equal(want[2]);
    });
    if (communicator.rank() == 1) {
      while (!rank_zero_is_through) std::this_thread::yield();
    }
    reducer.start_step();
    reducer.start_leaf(2);
    for (int pass = 0; pass < 2; ++pass) net.loss(input(communicator.rank(), pass)).backward();
    if (communicator.rank() == 0) rank_zero_is_through = true;
    EXPECT_EQ(handed_in.size(), 2u);
    EXPECT_EQ(handed_in[0], 0u);  // not in a pass that others follow
    EXPECT_GE(handed_in[1], 1u);
    EXPECT_EQ(summed, communicator.rank() == 1);
    reducer.end_passes();
    reducer.finish();
    EXPECT_EQ(reducer.handed_in(), 3u);
    communicator.barrier("step");
  });
}

TEST(FlatParameters, AllRanksGetRankZerosValuesInOnePlace) {
  run_as_threads(3, {}, [](Communicator& communicator) {
    Net net;
    net.named[1].second.detach().fill_(communicator.rank() + 7);
    FlatParameters parameters(communicator, net.named);
    EXPECT_TRUE(net.named[1].second.eq(7).all().item<bool>());
    communicator.barrier("read");
    if (communicator.rank() == 1) parameters.flat().fill_(5);
    communicator.barrier("written");
    EXPECT_TRUE(net.named[0].second.eq(5).all().item<bool>());
    communicator.barrier("done");
  });
}

TEST(FlatParameters, WithoutSharedMemoryEveryRankHasACopyOfRankZeros) {
  run_as_threads(3, {}, [](Communicator& threads) {
    OwnCopies communicator(threads);
    Net net;
    net.named[1].second.detach().fill_(communicator.rank() + 7);
    FlatParameters parameters(communicator, net.named);
    EXPECT_TRUE(net.named[1].second.eq(7).all().item<bool>());
    parameters.flat().fill_(communicator.rank());
    communicator.barrier("written");
    EXPECT_TRUE(net.named[0].second.eq(communicator.rank()).all().item<bool>());
  });
}

}  // namespace
}  // namespace rekindle
