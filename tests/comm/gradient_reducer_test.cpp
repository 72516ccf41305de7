// SPDX-License-Identifier: Apache-2.0
#include "comm/gradient_reducer.h"

#include <ATen/ops/full.h>
#include <ATen/ops/linear.h>
#include <ATen/ops/zeros.h>
#include <ATen/ops/zeros_like.h>
#include <gtest/gtest.h>
#include <torch/csrc/autograd/variable.h>

#include <cmath>
#include <memory>
#include <string>

#include "comm/thread_communicator.h"
#include "core/error.h"
#include "tests/support/own_copies.h"

namespace rekindle {
namespace {

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

// The gradients of all ranks and passes added up, by plain autograd.
std::vector<at::Tensor> expected(const std::vector<int>& passes) {
  Net net;
  for (size_t rank = 0; rank < passes.size(); ++rank) {
    for (int pass = 0; pass < passes[rank]; ++pass) net.loss(input(static_cast<int>(rank), pass)).backward();
  }
  std::vector<at::Tensor> gradients;
  for (auto& [name, parameter] : net.named) {
    gradients.push_back(parameter.grad().defined() ? parameter.grad().clone() : at::zeros_like(parameter));
  }
  return gradients;
}

void check_sums(const std::vector<int>& passes, const ReducerOptions& options, bool shared) {
  const std::vector<at::Tensor> want = expected(passes);
  const int world = static_cast<int>(passes.size());
  run_as_threads(world, {}, [&](Communicator& threads) {
    OwnCopies apart(threads);
    Communicator& communicator = shared ? threads : apart;
    Net net;
    FlatParameters parameters(communicator, net.named);
    GradientReducer reducer(communicator, parameters, options);
    for (int step = 0; step < 3; ++step) {
      const int mine = passes[communicator.rank()];
      reducer.start_step(mine);
      for (int pass = 0; pass < mine; ++pass) net.loss(input(communicator.rank(), pass)).backward();
      const double norm = reducer.finish().squared_norm;

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
      communicator.barrier("step");
    }
  });
}

void check(const std::vector<int>& passes, const ReducerOptions& options) {
  for (const bool shared : {true, false}) check_sums(passes, options, shared);
}

TEST(GradientReducer, SumsOverRanksAndPassesInAnyNumberOfBuckets) {
  for (const int64_t bytes : {int64_t{1} << 30, int64_t{40000}, int64_t{1}}) {
    check({1}, {bytes, bytes});
    check({1, 1}, {bytes, bytes});
    check({2, 1, 3}, {bytes, bytes});
  }
}

TEST(GradientReducer, ARankWithoutSamplesAddsNothing) {
  check({1, 0, 2}, {});
}

TEST(GradientReducer, BucketsAreHandedInWhileBackwardRuns) {
  // With one bucket a parameter, the last layer's is handed in before the first layer's gradient exists.
  run_as_threads(2, {}, [](Communicator& communicator) {
    Net net(/*with_unused=*/false);
    FlatParameters parameters(communicator, net.named);
    GradientReducer reducer(communicator, parameters, {1, 1});
    EXPECT_EQ(reducer.buckets().size(), 3u);
    EXPECT_EQ(reducer.buckets().front().end, parameters.layout().size());
    EXPECT_EQ(reducer.buckets().back().begin, 0);
    std::vector<size_t> handed_in;
    net.named[0].second.register_hook([&](const at::Tensor&) { handed_in.push_back(reducer.handed_in()); });
    for (int pass = 0; pass < 2; ++pass) {
      if (pass == 0) reducer.start_step(2);
      net.loss(input(communicator.rank(), pass)).backward();
    }
    EXPECT_EQ(handed_in.size(), 2u);
    EXPECT_EQ(handed_in[0], 0u);  // not in a pass that others follow
    EXPECT_GE(handed_in[1], 1u);
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
