// SPDX-License-Identifier: Apache-2.0
#include "warmstart/load_weights.h"

#include <ATen/ops/arange.h>
#include <ATen/ops/zeros.h>
#include <gmock/gmock.h>

#include <fstream>
#include <regex>

#include "checkpoints/weight_files.h"
#include "comm/flat_parameters.h"
#include "comm/thread_communicator.h"
#include "core/error.h"
#include "core/safetensors.h"
#include "tests/support/faulty_file_system.h"
#include "tests/support/own_copies.h"
#include "tests/support/temp_directory.h"
#include "warmstart/parent.h"

namespace rekindle {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::UnorderedElementsAre;

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
      WarmStartOptions rules = options;
      rules.min_loaded = min_loaded;
      const LoadReport report =
          load_weights(communicator, posix_file_system(), {path, digest}, state, rules, classes);
      look(communicator.rank(), state, report);
      communicator.barrier("looked");
    });
  }

  WarmStartOptions options;
  HeadClasses classes;
  std::string digest;  // that the source is said to have
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
      EXPECT_THAT(report.loaded, UnorderedElementsAre("a.weight", "a.bias", "norm.running_mean"));
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
                  load_weights(communicator, posix_file_system(), {file, ""}, state, {});
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
                  load_weights(communicator, posix_file_system(), {file, ""}, state, {});
                }),
                HasSubstr("too little would be loaded: 2 tensors, 2.4 %"));
    EXPECT_TRUE(state.parameters[1].second.eq(-1).all().item<bool>());
    communicator.barrier("looked");
  });
}

TEST_F(LoadWeights, AnotherShapeOrKindOfTypeIsAnErrorOnEveryRank) {
  NamedState other = parent();
  other.parameters[0].second = filled({40, 30}, 2);
  const auto file = write(other);
  const auto nothing = [](int, const NamedState&, const LoadReport&) {};
  EXPECT_THAT(error_of([&] { load(2, file, 0, nothing); }),
              HasSubstr("tensor 'a.weight' is [40, 30] in the file and [30, 40] in the model"));
  other.parameters[0].second = filled({30, 40}, 2).to(at::kInt);
  EXPECT_THAT(error_of([&] { load(2, write(other), 0, nothing); }),
              HasSubstr("is I32 in the file and F32 in the model"));
}

TEST_F(LoadWeights, HalvesAndDoublesAreConverted) {
  NamedState other = parent();
  other.parameters[0].second = filled({30, 40}, 2).to(at::kBFloat16);
  other.parameters[1].second = filled({30}, 3).to(at::kDouble);
  other.buffers[0].second = filled({30}, 4).to(at::kFloat8_e4m3fn);
  load(2, write(other), 1, [&](int rank, const NamedState& state, const LoadReport& report) {
    EXPECT_TRUE(state.parameters[0].second.eq(2).all().item<bool>());
    EXPECT_TRUE(state.parameters[1].second.eq(3).all().item<bool>());
    EXPECT_TRUE(state.buffers[0].second.eq(4).all().item<bool>());
    if (rank == 0)
      EXPECT_THAT(report.converted, UnorderedElementsAre("a.weight", "a.bias", "norm.running_mean"));
  });
}

// More than one chunk of the stream, so that what is read in place, buffered and skipped is cut.
TEST_F(LoadWeights, LargeTensorsArriveWhole) {
  NamedState large;
  const auto count = [](int64_t rows, int64_t columns) {
    return at::arange(rows * columns, at::kFloat).view({rows, columns});
  };
  large.parameters.emplace_back("a.weight", count(1500, 1000));
  large.parameters.emplace_back("half", count(1500, 1000).remainder(2000).to(at::kHalf));
  large.buffers.emplace_back("unused", count(900, 1000));
  const auto file = write(large);
  digest = digest_of_weights(posix_file_system(), file);
  for (const WeightReader reader : {WeightReader::kRankZero, WeightReader::kEachNode}) {
    for (const bool shared : {true, false}) {
      run_as_threads(3, {}, [&](Communicator& threads) {
        OwnCopies apart(threads);
        Communicator& communicator = shared ? threads : apart;
        NamedState state;
        state.parameters.emplace_back("a.weight", at::zeros({1500, 1000}, at::kFloat));
        state.parameters.emplace_back("half", at::zeros({1500, 1000}, at::kFloat));
        const FlatParameters parameters(communicator, state.parameters);
        WarmStartOptions rules;
        rules.read = reader;
        load_weights(communicator, posix_file_system(), {file, digest}, state, rules);
        EXPECT_TRUE(state.parameters[0].second.equal(count(1500, 1000)));
        EXPECT_TRUE(state.parameters[1].second.equal(count(1500, 1000).remainder(2000)));
        communicator.barrier("looked");
      });
    }
  }
}

TEST_F(LoadWeights, EveryNodeReadsForItself) {
  options.read = WeightReader::kEachNode;
  const auto file = write(parent());
  for (const bool shared : {true, false}) {
    run_as_threads(3, {}, [&](Communicator& threads) {
      OwnCopies apart(threads);
      Communicator& communicator = shared ? threads : apart;
      const NamedState state = model(communicator.rank());
      const FlatParameters parameters(communicator, state.parameters);
      load_weights(communicator, posix_file_system(), {file, ""}, state, options);
      EXPECT_TRUE(state.parameters[0].second.eq(2).all().item<bool>());
      EXPECT_TRUE(state.buffers[0].second.eq(4).all().item<bool>());
      communicator.barrier("looked");
    });
  }
}

TEST_F(LoadWeights, AFlippedByteIsFoundWhileItIsRead) {
  const auto file = write(parent());
  digest = digest_of_weights(posix_file_system(), file);
  std::fstream bytes(file, std::ios::in | std::ios::out | std::ios::binary);
  bytes.seekp(-10, std::ios::end).put('x');
  bytes.close();
  const auto nothing = [](int, const NamedState&, const LoadReport&) {};
  for (const WeightReader reader : {WeightReader::kRankZero, WeightReader::kEachNode}) {
    options.read = reader;
    EXPECT_THAT(error_of([&] { load(1, file, 1, nothing); }), HasSubstr("the weights are damaged"));
  }
  options.read = WeightReader::kRankZero;
  EXPECT_THAT(error_of([&] { load(3, file, 1, nothing); }), HasSubstr("the weights are damaged"));
}

// A disk that fails in the middle ends the run on all ranks, and leaves nobody waiting.
TEST_F(LoadWeights, ADiskThatFailsInTheMiddleIsAnErrorOnEveryRank) {
  const auto file = write(parent());
  FaultyFileSystem failing;
  failing.reads_end_at = 3000;  // of 5 kB
  const auto on_bad_disk = [&] {
    run_as_threads(3, {}, [&](Communicator& communicator) {
      const NamedState state = model(communicator.rank());
      const FlatParameters parameters(communicator, state.parameters);
      load_weights(communicator, failing, {file, ""}, state, {});
    });
  };
  EXPECT_THAT(error_of(on_bad_disk), HasSubstr("cannot read"));
}

TEST_F(LoadWeights, AHeadGrowsByTheNamesOfItsClasses) {
  NamedState small;
  small.parameters.emplace_back("a.weight", filled({30, 40}, 2));
  small.parameters.emplace_back("a.bias", at::arange(28, at::kFloat));
  small.parameters[0].second = at::arange(28, at::kFloat).view({28, 1}).expand({28, 40}).contiguous();
  for (int i = 0; i < 28; ++i) classes.parent.push_back("class " + std::to_string(i));
  classes.child = classes.parent;
  classes.child.insert(classes.child.begin() + 5, "new one");
  classes.child.push_back("new two");
  load(2, write(small), 0.9, [&](int rank, const NamedState& state, const LoadReport& report) {
    for (const auto& [name, tensor] : state.parameters) {
      const at::Tensor rows = name == "a.bias" ? tensor : tensor.select(1, 39);
      EXPECT_EQ(rows[4].item<float>(), 4);
      EXPECT_EQ(rows[5].item<float>(), -1) << "fresh, as rank 0 has it";
      EXPECT_EQ(rows[6].item<float>(), 5);
      EXPECT_EQ(rows[28].item<float>(), 27);
      EXPECT_EQ(rows[29].item<float>(), -1);
    }
    if (rank != 0) return;
    EXPECT_THAT(report.resized, UnorderedElementsAre("a.weight", "a.bias"));
    EXPECT_NEAR(report.loaded_share(), 28.0 / 30, 1e-12);
    EXPECT_NEAR(report.resized_share(), 28.0 / 30, 1e-12);
  });
}

// Kilobytes, of this process: what /proc/self/status calls `name`.
int64_t status_of(const std::string& name) {
  std::ifstream status("/proc/self/status");
  for (std::string line; std::getline(status, line);) {
    if (line.starts_with(name + ":")) return std::stoll(line.substr(name.size() + 1));
  }
  throw std::runtime_error("there is no " + name);
}

// Where the kernel lets the peak be reset: 192 MiB that go straight to their place, as many that are
// converted, and a head that grows by a class in the middle, whose rows begin and end within chunks.
TEST_F(LoadWeights, MemoryBesidesTheModelIsBounded) {
  constexpr int64_t kRows = 3 << 10, kColumns = 16 << 10;
#ifdef __SANITIZE_ADDRESS__
  GTEST_SKIP() << "the sanitizer's own memory counts, too";
#endif
  std::ofstream reset("/proc/self/clear_refs");
  if (!reset) GTEST_SKIP() << "/proc/self/clear_refs cannot be written";
  const auto number = [](const at::Tensor& rows) {
    return rows.view({-1, 1}).expand({rows.numel(), kColumns}).remainder(1000);
  };
  const auto file = [&] {
    NamedState large;
    large.parameters.emplace_back("plain", number(at::arange(kRows, at::kFloat)).contiguous());
    large.parameters.emplace_back("half", number(at::arange(kRows, at::kHalf)).contiguous());
    large.parameters.emplace_back("head", number(at::arange(kRows - 1, at::kFloat)).contiguous());
    return write(large);
  }();
  for (int64_t i = 0; i + 1 < kRows; ++i) classes.parent.push_back("class " + std::to_string(i));
  classes.child = classes.parent;
  classes.child.insert(classes.child.begin() + 5, "new");
  NamedState state;
  for (const char* name : {"plain", "half", "head"})
    state.parameters.emplace_back(name, at::zeros({kRows, kColumns}, at::kFloat).fill_(-1));
  run_as_threads(1, {}, [&](Communicator& communicator) {
    const FlatParameters parameters(communicator, state.parameters);
    reset << "5" << std::flush;
    const int64_t before = status_of("VmRSS");
    load_weights(communicator, posix_file_system(), {file, ""}, state, {}, classes);
    EXPECT_LE(status_of("VmHWM") - before, 64 << 10);
    const at::Tensor rows = at::arange(kRows, at::kFloat);
    EXPECT_TRUE(state.parameters[0].second.equal(number(rows)));
    EXPECT_TRUE(state.parameters[1].second.equal(number(rows.to(at::kHalf)).to(at::kFloat)));
    const at::Tensor& head = state.parameters[2].second;
    EXPECT_TRUE(head.narrow(0, 0, 5).equal(number(rows.narrow(0, 0, 5))));
    EXPECT_TRUE(head[5].eq(-1).all().item<bool>());
    EXPECT_TRUE(head.narrow(0, 6, kRows - 6).equal(number(rows.narrow(0, 5, kRows - 6))));
  });
}

TEST_F(LoadWeights, ShardsAreReadAsOneModel) {
  const auto folder = directory_.path() / "shards";
  std::filesystem::create_directory(folder);
  const NamedState whole = parent();
  const auto write_shard = [&](const char* name, NamedState state) {
    safetensors::write(posix_file_system(), folder / name, views_of(state));
  };
  write_shard("model-00001-of-00002.safetensors", {{whole.parameters[1]}, {}, {}});
  write_shard("model-00002-of-00002.safetensors", {{whole.parameters[0]}, {}, whole.buffers});
  const auto index = [&](const std::string& text) {
    std::ofstream(folder / "model.safetensors.index.json") << text;
    return folder / "model.safetensors.index.json";
  };
  const std::string good = R"({"metadata": {"total_size": 5040}, "weight_map": {
      "a.bias": "model-00001-of-00002.safetensors", "a.weight": "model-00002-of-00002.safetensors",
      "norm.running_mean": "model-00002-of-00002.safetensors"}})";
  const auto file = index(good);
  const Parent found = *find_parent(posix_file_system(), folder.string(), "");
  EXPECT_EQ(found.source.path, file);
  digest = found.digest;
  load(2, file, 1.0, [&](int, const NamedState& state, const LoadReport&) {
    EXPECT_TRUE(state.parameters[0].second.eq(2).all().item<bool>());
    EXPECT_TRUE(state.parameters[1].second.eq(3).all().item<bool>());
    EXPECT_TRUE(state.buffers[0].second.eq(4).all().item<bool>());
  });
  const auto refused = [&](const std::string& from, const std::string& to) {
    return error_of(
        [&] { WeightFiles(posix_file_system(), index(std::regex_replace(good, std::regex(from), to))); });
  };
  EXPECT_THAT(refused("a.bias", "b.bias"),
              HasSubstr("holds tensor \"a.bias\", which the index does not name"));
  EXPECT_THAT(refused("\"a.bias\":", "\"c\": \"model-00001-of-00002.safetensors\", \"a.bias\":"),
              HasSubstr("tensor \"c\" is not in \"model-00001-of-00002.safetensors\""));
  EXPECT_THAT(refused("model-00001", "../model-00001"), HasSubstr("which is no file of this folder"));
  EXPECT_THAT(refused("\"weight_map\"", "\"weights\""), HasSubstr("weight_map"));
}

TEST_F(LoadWeights, APlanTouchesNothing) {
  const NamedState state = model(0);
  NamedState other = parent();
  other.parameters[0].first = "body.a.weight";
  options.rename = {{"^body\\.", ""}};
  options.exclude = {"norm.*"};
  const LoadReport report = plan_load(posix_file_system(), write(other), state, options);
  EXPECT_TRUE(state.parameters[0].second.eq(-1).all().item<bool>());
  ASSERT_EQ(report.renamed.size(), 1u);
  EXPECT_EQ(report.renamed[0].from, "body.a.weight");
  EXPECT_EQ(report.renamed[0].to, "a.weight");
  EXPECT_NEAR(report.renamed_share(), 1200.0 / 1230, 1e-12);
  EXPECT_THAT(report.fresh, ElementsAre("norm.running_mean"));
  EXPECT_THAT(report.unused, ElementsAre("norm.running_mean"));
  EXPECT_EQ(report.loaded_share(), 1);
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
  EXPECT_EQ(find_parent(files, file.string(), "")->source.path, file);
  EXPECT_EQ(find_parent(files, directory_.path().string(), "")->source.path,
            file);  // as Hugging Face lays it out
  EXPECT_FALSE(find_parent(files, "promoted", directory_.path() / "line"));
  EXPECT_THAT(error_of([&] { find_parent(files, "promoted", ""); }), HasSubstr("no line"));
  EXPECT_THAT(error_of([&] { find_parent(files, "/nowhere", ""); }), HasSubstr("nothing to start from"));
  EXPECT_THAT(error_of([&] { find_parent(files, file.string(), "", true); }),
              HasSubstr("no moments beside bare weights"));
  std::filesystem::create_directory(directory_.path() / "empty");
  EXPECT_THAT(error_of([&] { find_parent(files, (directory_.path() / "empty").string(), ""); }),
              HasSubstr("no line, run, checkpoint or model"));
}

}  // namespace
}  // namespace rekindle
