// SPDX-License-Identifier: Apache-2.0
#include "data/loader.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <set>

#include "data/sample_order.h"
#include "tests/data/errors.h"
#include "tests/data/files.h"
#include "tests/support/temp_directory.h"

namespace rekindle {
namespace {

using testing::HasSubstr;

using Numbers = std::vector<int64_t>;

class LoaderTest : public testing::Test {
 protected:
  static constexpr int64_t kSamples = 300;

  static Dataset open() {
    const TempDirectory directory;
    const auto images = directory.path() / "images", labels_path = directory.path() / "labels";
    write_bytes(images, idx({kSamples, 2, 3}, pixels(kSamples, 6)));
    write_bytes(labels_path, idx({kSamples}, labels(kSamples, 10)));
    return Dataset(posix_file_system(),
                   {.increments = {{.images = images, .labels = labels_path, .path = {}, .range = {}}}});
  }

  const Dataset data_ = open();
};

// Every third sample: what is trained on is rarely all.
Numbers every_third(int64_t size) {
  Numbers indices;
  for (int64_t i = 0; i < size; ++i) indices.push_back(3 * i);
  return indices;
}

// The samples in a batch, told by their pixels; their labels must go with them.
Numbers numbers_in(const Batch& batch) {
  EXPECT_EQ(batch.x.sizes(), (std::vector<int64_t>{batch.samples(), 1, 2, 3}));
  const float* x = batch.x.const_data_ptr<float>();
  Numbers numbers;
  for (int64_t i = 0; i < batch.samples(); ++i, x += 6) {
    numbers.push_back(std::lround(x[0] * 255) + 251 * std::lround(x[1] * 255));
    EXPECT_EQ(batch.y.const_data_ptr<int64_t>()[i], numbers.back() % 10);
  }
  return numbers;
}

Numbers numbers_in(const StepBatches& step) {
  Numbers numbers;
  for (const auto& share : step.shares) {
    for (const Batch& batch : share) {
      const Numbers more = numbers_in(batch);
      numbers.insert(numbers.end(), more.begin(), more.end());
    }
  }
  return numbers;
}

// What all ranks together get in each of the first steps.
std::vector<Numbers> steps_of_world(const Dataset& data, const Numbers& indices, LoaderOptions options,
                                    int steps) {
  std::vector<Numbers> of_step(static_cast<size_t>(steps));
  for (options.rank = 0; options.rank < options.world; ++options.rank) {
    Loader loader(data, indices, options);
    for (Numbers& numbers : of_step) {
      const Numbers part = numbers_in(loader.next());
      numbers.insert(numbers.end(), part.begin(), part.end());
    }
  }
  return of_step;
}

TEST_F(LoaderTest, FollowsTheOrderOfEachEpoch) {
  const Numbers indices = every_third(50);
  Loader loader(data_, indices, {.seed = 7, .global_batch = 16});
  for (int64_t epoch = 0; epoch < 5; ++epoch) {
    const SampleOrder order(7, epoch, 50, true);
    int64_t position = 0;
    for (const int64_t expected : {16, 16, 16, 2}) {
      const StepBatches step = loader.next();
      EXPECT_EQ(step.global_samples, expected);
      for (const int64_t number : numbers_in(step)) EXPECT_EQ(number, 3 * order.at(position++));
    }
  }
}

TEST_F(LoaderTest, WithoutShufflingKeepsFileOrder) {
  const Numbers indices = every_third(10);
  Loader loader(data_, indices, {.shuffle = false, .global_batch = 5});
  for (int epoch = 0; epoch < 2; ++epoch) {
    EXPECT_EQ(numbers_in(loader.next()), (Numbers{0, 3, 6, 9, 12}));
    EXPECT_EQ(numbers_in(loader.next()), (Numbers{15, 18, 21, 24, 27}));
  }
}

TEST_F(LoaderTest, AStepIsTheSameInEveryWorld) {
  const Numbers indices = every_third(93);
  for (const int64_t batch : {1, 3, 16, 31, 93, 200}) {
    LoaderOptions options{.seed = 3, .global_batch = batch};
    const int steps = static_cast<int>(3 * ((93 + batch - 1) / batch));
    const std::vector<Numbers> alone = steps_of_world(data_, indices, options, steps);
    for (const int world : {2, 3, 4, 7}) {
      options.world = world;
      options.virtual_workers = world % 2 == 0 ? 8 : world;
      options.microbatch = world;  // how it is cut changes nothing either
      EXPECT_EQ(steps_of_world(data_, indices, options, steps), alone) << world << " ranks, batch " << batch;
    }
  }
}

TEST_F(LoaderTest, RanksHaveContiguousPartsThatDifferByOne) {
  for (int rank = 0; rank < 3; ++rank) {
    Loader loader(data_, every_third(22),
                  {.shuffle = false, .rank = rank, .world = 3, .global_batch = 20, .virtual_workers = 3});
    const StepBatches full = loader.next();
    EXPECT_EQ(full.global_samples, 20);
    EXPECT_EQ(numbers_in(full).size(), rank == 0 ? 6u : 7u);
    EXPECT_EQ(numbers_in(full).front(), 3 * (20 * rank / 3));
    const StepBatches last = loader.next();  // two samples for three ranks
    EXPECT_EQ(last.global_samples, 2);
    EXPECT_EQ(last.shares.size(), 1u);
    EXPECT_EQ(last.shares[0].size(), rank == 2 ? 0u : 1u);
  }
}

TEST_F(LoaderTest, RanksHaveContiguousRangesOfVirtualWorkersAndTheirCutIsTheSameInEveryWorld) {
  const auto shares = [&](int world) {
    std::vector<Numbers> shares;
    for (int rank = 0; rank < world; ++rank) {
      Loader loader(data_, every_third(45),
                    {.rank = rank, .world = world, .global_batch = 20, .virtual_workers = 8});
      loader.next();
      for (const auto& passes : loader.next().shares)
        shares.push_back(passes.empty() ? Numbers() : numbers_in(passes[0]));
    }
    return shares;
  };
  EXPECT_EQ(shares(1).size(), 8u);
  for (const int world : {2, 3, 5, 8}) EXPECT_EQ(shares(world), shares(1)) << world;
}

TEST(ShareOf, TheLastVirtualWorkersOfAShortBatchHaveNone) {
  const auto sizes = [](int64_t batch, int count, int64_t least) {
    std::vector<int64_t> sizes;
    for (int i = 0; i < count; ++i) sizes.push_back(share_of(batch, i, count, least).size());
    return sizes;
  };
  EXPECT_EQ(sizes(10, 4, 1), (std::vector<int64_t>{2, 3, 2, 3}));
  EXPECT_EQ(sizes(3, 4, 1), (std::vector<int64_t>{1, 1, 1, 0}));
  EXPECT_EQ(sizes(7, 4, 2), (std::vector<int64_t>{2, 2, 3, 0}));
  EXPECT_EQ(sizes(1, 4, 2), (std::vector<int64_t>{1, 0, 0, 0}));
}

TEST_F(LoaderTest, MicroBatchesAreAboutEqual) {
  const auto sizes = [&](int64_t batch, int64_t most) {
    Loader loader(data_, every_third(90), {.global_batch = batch, .microbatch = most});
    std::vector<int64_t> sizes;
    const StepBatches step = loader.next();
    for (const Batch& micro : step.shares[0]) sizes.push_back(micro.samples());
    return sizes;
  };
  EXPECT_EQ(sizes(10, 4), (std::vector<int64_t>{3, 3, 4}));
  EXPECT_EQ(sizes(12, 4), (std::vector<int64_t>{4, 4, 4}));
  EXPECT_EQ(sizes(10, 100), std::vector<int64_t>{10});
  EXPECT_EQ(sizes(10, 0), std::vector<int64_t>{10});
  EXPECT_EQ(sizes(3, 1), (std::vector<int64_t>{1, 1, 1}));
}

TEST_F(LoaderTest, StartsAtAnyStepAsIfItHadRunTillThere) {
  const Numbers indices = every_third(50);
  const Timeline timeline(50, 16);
  const LoaderOptions options{.seed = 5, .rank = 1, .world = 2, .global_batch = 16, .virtual_workers = 2};
  Loader whole(data_, indices, options);
  std::vector<Numbers> expected;
  for (int step = 0; step < 20; ++step) expected.push_back(numbers_in(whole.next()));
  for (int step = 0; step < 20; ++step) {
    Loader resumed(data_, indices, options, timeline.samples_after(step));
    for (int later = step; later < 20; ++later) {
      EXPECT_EQ(numbers_in(resumed.next()), expected[static_cast<size_t>(later)])
          << "started at step " << step;
    }
  }
}

TEST_F(LoaderTest, StartsFarOutAtOnce) {
  const int64_t epochs = 1'000'000'000'000'000;
  Loader loader(data_, every_third(50), {.seed = 5, .global_batch = 50}, epochs * 50);
  EXPECT_EQ(numbers_in(loader.next())[4], 3 * SampleOrder(5, epochs, 50, true).at(4));
}

TEST_F(LoaderTest, HandsOutEveryStepWhateverItsDepth) {
  for (const size_t depth : {0, 1, 2, 3, 50}) {
    Loader loader(data_, every_third(10), {.shuffle = false, .global_batch = 1, .depth = depth});
    for (int64_t step = 0; step < 2000; ++step)
      ASSERT_EQ(numbers_in(loader.next()), Numbers{3 * (step % 10)});
  }
}

TEST_F(LoaderTest, HandsOnWhatWentWrongWhileBuilding) {
  Loader loader(data_, {0, 1, 2, kSamples, 4}, {.shuffle = false, .global_batch = 1});
  for (int64_t step = 0; step < 3; ++step) EXPECT_EQ(numbers_in(loader.next()), Numbers{step});
  for (int again = 0; again < 2; ++again) {
    EXPECT_THAT(error_of([&] { loader.next(); }, ExitCode::kFailed),
                HasSubstr("sample 300 of a data set of 300"));
  }
  Loader unused(data_, {-1}, {.global_batch = 1});  // and nobody need ask
}

TEST_F(LoaderTest, CanBeDroppedAtAnyMoment) {
  for (int round = 0; round < 200; ++round) {
    Loader loader(data_, every_third(90), {.global_batch = 30, .depth = static_cast<size_t>(1 + round % 5)});
    for (int step = 0; step < round % 7; ++step) loader.next();
  }
}

// A run that goes on with another batch starts where no step of its own would.
TEST_F(LoaderTest, StartsAnywhereInAnEpoch) {
  Loader loader(data_, every_third(50), {.global_batch = 16}, 50 + 17);
  std::vector<int64_t> sizes;
  for (int step = 0; step < 4; ++step) sizes.push_back(loader.next().global_samples);
  EXPECT_EQ(sizes, (std::vector<int64_t>{16, 16, 1, 16}));
}

TEST_F(LoaderTest, RefusesWhatMakesNoSense) {
  const auto error = [&](const Numbers& indices, const LoaderOptions& options, int64_t start, ExitCode code) {
    return error_of([&] { Loader loader(data_, indices, options, start); }, code);
  };
  const Numbers indices = every_third(50);
  EXPECT_THAT(error({}, {.global_batch = 16}, 0, ExitCode::kBadInput), HasSubstr("no sample to train on"));
  EXPECT_THAT(error(indices, {.global_batch = 16}, -16, ExitCode::kFailed), HasSubstr("out of range"));
  EXPECT_THAT(error(indices, {.rank = 2, .world = 2, .global_batch = 16}, 0, ExitCode::kFailed),
              HasSubstr("rank"));
  EXPECT_THAT(error(indices, {.global_batch = 0}, 0, ExitCode::kFailed), HasSubstr("out of range"));
}

}  // namespace
}  // namespace rekindle
