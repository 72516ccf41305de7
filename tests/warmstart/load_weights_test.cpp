// SPDX-License-Identifier: Apache-2.0
#include "warmstart/load_weights.h"

#include <ATen/ops/zeros.h>
#include <gmock/gmock.h>

#include "comm/flat_parameters.h"
#include "comm/thread_communicator.h"
#include "core/error.h"
#include "core/safetensors.h"
#include "tests/support/own_copies.h"
#include "tests/support/temp_directory.h"
#include "warmstart/parent.h"

namespace rekindle {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

at::Tensor filled(std::vector<int64_t> shape, float value) {
  return at::zeros(shape, at::kFloat).fill_(value);
}

// A model of one rank: everything starts at its own value, so that what was not loaded is seen.
NamedState model(int rank) {
  NamedState state;
  state.parameters.emplace_back("a.weight", filled({30, 40}, -1.f - rank));
  state.parameters.emplace_back("a.bias", filled({30}, -1.f - rank));
  state.buffers.emplace_back("norm.running_mean", filled({30}, -1.f - rank));
  return state;
}

class LoadWeights : public testing::Test {
 protected:
  std::filesystem::path write(const NamedState& state) {
    const auto path = directory_.path() / "model.safetensors";
    safetensors::write(posix_file_system(), path, views_of(state));
    return path;
  }

  // Loads on `world` ranks, with and without memory that they share; `look` sees each rank's state and
  // report.
  void load(int world, const std::filesystem::path& file, double min_loaded,
            const std::function<void(int, const NamedState&, const LoadReport&)>& look) {
    for (const bool shared : {true, false}) load(world, shared, file, min_loaded, look);
  }
  void load(int world, bool shared, const std::filesystem::path& file, double min_loaded,
            const std::function<void(int, const NamedState&, const LoadReport&)>& look) {
    run_as_threads(world, {}, [&](Communicator& threads) {
      OwnCopies apart(threads);
      Communicator& communicator = shared ? threads : apart;
      const NamedState state = model(communicator.rank());
      const FlatParameters parameters(communicator, state.parameters);
      // Only rank 0 may need the file system: the others are given a path that leads nowhere.
      const auto path = communicator.rank() == 0 ? file : std::filesystem::path("/nowhere");
      const LoadReport report =
          load_weights(communicator, posix_file_system(), path, state, parameters.flat(), min_loaded);
      look(communicator.rank(), state, report);
      communicator.barrier("looked");
    });
  }

  TempDirectory directory_;
};

NamedState parent() {
  NamedState state;
  state.parameters.emplace_back("a.weight", filled({30, 40}, 2));
  state.parameters.emplace_back("a.bias", filled({30}, 3));
  state.buffers.emplace_back("norm.running_mean", filled({30}, 4));
  return state;
}

std::string error_of(const std::function<void()>& part) {
  try {
    part();
  } catch (const Error& error) {
    return error.what();
  }
  return "no error";
}

TEST_F(LoadWeights, EveryRankHoldsWhatRankZeroRead) {
  const auto file = write(parent());
  for (const int world : {1, 2, 3}) {
    load(world, file, 1.0, [&](int rank, const NamedState& state, const LoadReport& report) {
      EXPECT_TRUE(state.parameters[0].second.eq(2).all().item<bool>()) << rank;
      EXPECT_TRUE(state.parameters[1].second.eq(3).all().item<bool>()) << rank;
      EXPECT_TRUE(state.buffers[0].second.eq(4).all().item<bool>()) << rank;
      if (rank != 0) return;
      EXPECT_EQ(report.loaded_share(), 1);
      EXPECT_THAT(report.loaded, ElementsAre("a.weight", "a.bias", "norm.running_mean"));
      EXPECT_EQ(report.bytes, (1200 + 30 + 30) * 4u);
    });
  }
}

// Whose rank 1 receives something else than was sent.
class BadWire : public OwnCopies {
 public:
  using OwnCopies::OwnCopies;
  void broadcast(at::Tensor tensor, int root, const char* name) override {
    OwnCopies::broadcast(tensor, root, name);
    if (rank() == 1) tensor.neg_();
  }
};

TEST_F(LoadWeights, ARankThatReceivedSomethingElseIsNamed) {
  const auto file = write(parent());
  EXPECT_THAT(error_of([&] {
                run_as_threads(3, {}, [&](Communicator& threads) {
                  BadWire communicator(threads);
                  const NamedState state = model(communicator.rank());
                  const FlatParameters parameters(communicator, state.parameters);
                  load_weights(communicator, posix_file_system(), file, state, parameters.flat(), 1.0);
                });
              }),
              HasSubstr("rank 1 does not hold the same weights as rank 0"));
}

TEST_F(LoadWeights, WhatTheFileLacksIsFreshAndWhatTheModelLacksIsUnused) {
  NamedState other = parent();
  other.parameters[1].first = "old.bias";
  load(2, write(other), 0.9, [&](int rank, const NamedState& state, const LoadReport& report) {
    EXPECT_TRUE(state.parameters[0].second.eq(2).all().item<bool>());
    EXPECT_TRUE(state.parameters[1].second.eq(-1).all().item<bool>());  // rank 0's fresh values, everywhere
    if (rank != 0) return;
    EXPECT_THAT(report.fresh, ElementsAre("a.bias"));
    EXPECT_THAT(report.unused, ElementsAre("old.bias"));
    EXPECT_NEAR(report.loaded_share(), 1200.0 / 1230, 1e-12);
    EXPECT_THAT(report.text(), HasSubstr("97.6 % of the parameters loaded; fresh: a.bias; unused: old.bias"));
  });
}

TEST_F(LoadWeights, UnderTheFloorNothingIsTouched) {
  NamedState other = parent();
  other.parameters[0].first = "b.weight";
  const auto file = write(other);
  run_as_threads(2, {}, [&](Communicator& communicator) {
    const NamedState state = model(communicator.rank());
    const FlatParameters parameters(communicator, state.parameters);
    EXPECT_THAT(error_of([&] {
                  load_weights(communicator, posix_file_system(), file, state, parameters.flat(), 0.95);
                }),
                HasSubstr("too little would be loaded: 2 tensors, 2.4 %"));
    EXPECT_TRUE(state.parameters[1].second.eq(-1).all().item<bool>());
    communicator.barrier("looked");
  });
}

TEST_F(LoadWeights, AnotherShapeOrTypeIsAnErrorOnEveryRank) {
  NamedState other = parent();
  other.parameters[0].second = filled({40, 30}, 2);
  const auto file = write(other);
  const auto nothing = [](int, const NamedState&, const LoadReport&) {};
  EXPECT_THAT(error_of([&] { load(2, file, 0, nothing); }),
              HasSubstr("tensor 'a.weight' is [40, 30] in the file and [30, 40] in the model"));
  other.parameters[0].second = filled({30, 40}, 2).to(at::kHalf);
  EXPECT_THAT(error_of([&] { load(2, write(other), 0, nothing); }),
              HasSubstr("is F16 in the file and F32 in the model"));
}

TEST(CheckSame, ARankWithOtherWeightsIsNamed) {
  EXPECT_THAT(error_of([] {
                run_as_threads(3, {}, [](Communicator& communicator) {
                  NamedState state;
                  state.buffers.emplace_back("x", filled({5}, communicator.rank() == 2 ? 1 : 0));
                  check_same(communicator, digest_of(state), "weights", "");
                });
              }),
              HasSubstr("rank 2 does not hold the same weights as rank 0"));
}

TEST_F(LoadWeights, AParentIsFoundByAnyOfItsNames) {
  const auto file = write(parent());
  FileSystem& files = posix_file_system();
  EXPECT_EQ(find_parent(files, file.string(), "")->weights, file);
  EXPECT_EQ(find_parent(files, directory_.path().string(), "")->weights,
            file);  // as Hugging Face lays it out
  EXPECT_FALSE(find_parent(files, "promoted", directory_.path() / "line"));
  EXPECT_THAT(error_of([&] { find_parent(files, "promoted", ""); }), HasSubstr("no line"));
  EXPECT_THAT(error_of([&] { find_parent(files, "/nowhere", ""); }), HasSubstr("nothing to start from"));
  std::filesystem::create_directory(directory_.path() / "empty");
  EXPECT_THAT(error_of([&] { find_parent(files, (directory_.path() / "empty").string(), ""); }),
              HasSubstr("no line, run, checkpoint or model"));
}

}  // namespace
}  // namespace rekindle
