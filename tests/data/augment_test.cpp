// SPDX-License-Identifier: Apache-2.0
#include "data/augment.h"

#include <algorithm>
#include <map>
#include <set>

#include "data/gather.h"
#include "data/loader.h"
#include "tests/data/errors.h"
#include "tests/data/files.h"
#include "tests/support/temp_directory.h"

namespace rekindle {
namespace {

using Change = Augmentation::Change;
using testing::HasSubstr;

constexpr AugmentOptions kBoth{.crop = true, .flip = true};
constexpr int64_t kHeight = 7, kWidth = 10, kImages = 60;

// The recipe as it is told: the image in a frame, a window of it, mirrored. Every step is a copy.
std::vector<float> by_the_book(const std::vector<float>& image, int64_t channels, float frame,
                               Change change) {
  constexpr int64_t kFrame = 4, kTall = kHeight + 2 * kFrame, kWide = kWidth + 2 * kFrame;
  std::vector<float> result;
  for (int64_t channel = 0; channel < channels; ++channel) {
    std::vector<std::vector<float>> framed(kTall, std::vector<float>(kWide, frame));
    for (int64_t y = 0; y < kHeight; ++y) {
      for (int64_t x = 0; x < kWidth; ++x)
        framed[y + kFrame][x + kFrame] = image[(channel * kHeight + y) * kWidth + x];
    }
    for (int64_t y = 0; y < kHeight; ++y) {
      const auto from = framed[y + kFrame + change.down].begin() + kFrame + change.right;
      std::vector<float> row(from, from + kWidth);
      if (change.mirrored) std::reverse(row.begin(), row.end());
      result.insert(result.end(), row.begin(), row.end());
    }
  }
  return result;
}

std::vector<float> image_of(const Batch& batch, int64_t sample) {
  const int64_t features = batch.x.numel() / batch.samples();
  const float* begin = batch.x.const_data_ptr<float>() + sample * features;
  return {begin, begin + features};
}

class AugmentTest : public testing::Test {
 protected:
  Dataset bytes(const AugmentOptions& augment = {}) const {
    write_bytes(directory_.path() / "images",
                idx({kImages, kHeight, kWidth}, pixels(kImages, kHeight * kWidth)));
    write_bytes(directory_.path() / "labels", idx({kImages}, labels(kImages, 2)));
    DataOptions options{.increments = {{.images = directory_.path() / "images",
                                        .labels = directory_.path() / "labels",
                                        .path = {},
                                        .range = {}}}};
    options.augment = augment;
    return Dataset(posix_file_system(), options);
  }

  Dataset floats(std::vector<int64_t> shape, const AugmentOptions& augment = {}) const {
    std::vector<float> x(static_cast<size_t>(elements_of(shape)));
    for (size_t i = 0; i < x.size(); ++i) x[i] = 1 + static_cast<float>(i % 9973);  // 0 is the frame alone
    write_safetensors(directory_.path() / "x", shape, x, std::vector<int64_t>(shape[0], 0));
    DataOptions options{
        .kind = "safetensors",
        .increments = {{.images = {}, .labels = {}, .path = directory_.path() / "x", .range = {}}}};
    options.augment = augment;
    return Dataset(posix_file_system(), options);
  }

  // Every sample of `data`, changed, against the oracle.
  void check_all(const Dataset& data, int64_t channels, double mean, double std, float frame) const {
    std::vector<int64_t> all;
    for (int64_t i = 0; i < data.size(); ++i) all.push_back(data.size() - 1 - i);
    BatchMemory memory;
    for (const AugmentOptions options : {kBoth, AugmentOptions{true, false}, AugmentOptions{false, true}}) {
      const Augmentation augmentation(options, 5, 3);
      const Batch plain = gather(data, all, mean, std),
                  changed = gather(data, all, mean, std, memory, &augmentation);
      int differ = 0;
      for (int64_t i = 0; i < data.size(); ++i) {
        const auto expected = by_the_book(image_of(plain, i), channels, frame, augmentation.of(all[i]));
        EXPECT_EQ(image_of(changed, i), expected) << i;
        differ += expected != image_of(plain, i);
      }
      EXPECT_GT(differ, data.size() / 4);
    }
  }

  TempDirectory directory_;
};

TEST_F(AugmentTest, PixelsAreThoseOfTheRecipe) {
  check_all(bytes(), 1, 0.25, 0.5, -0.5f);  // a zero pixel, then normalised
  check_all(floats({40, 3, kHeight, kWidth}), 3, 0, 1, 0);
  check_all(floats({40, kHeight, kWidth}), 1, 0, 1, 0);
}

TEST_F(AugmentTest, AnImageIsTheSameWhereverItStandsInABatch) {
  const Dataset data = bytes();
  const Augmentation augmentation(kBoth, 1, 0);
  BatchMemory memory;
  const std::vector<int64_t> indices{3, 50, 7, 3};
  const Batch together = gather(data, indices, 0, 1, memory, &augmentation);
  for (int64_t i = 0; i < 4; ++i) {
    const Batch alone = gather(data, std::span(indices).subspan(i, 1), 0, 1, memory, &augmentation);
    EXPECT_EQ(image_of(alone, 0), image_of(together, i));
  }
}

// The images of the first steps, as all ranks together see them.
std::vector<std::vector<float>> seen_by(const Dataset& data, LoaderOptions options, int64_t start,
                                        int steps) {
  std::vector<int64_t> all;
  for (int64_t i = 0; i < data.size(); ++i) all.push_back(i);
  std::vector<std::vector<std::vector<float>>> of_step(static_cast<size_t>(steps));
  for (options.rank = 0; options.rank < options.world; ++options.rank) {
    Loader loader(data, all, options, start);
    for (auto& images : of_step) {
      for (const auto& passes : loader.next().shares) {
        for (const Batch& batch : passes) {
          for (int64_t i = 0; i < batch.samples(); ++i) images.push_back(image_of(batch, i));
        }
      }
    }
  }
  std::vector<std::vector<float>> images;
  for (const auto& step : of_step) images.insert(images.end(), step.begin(), step.end());
  return images;
}

TEST_F(AugmentTest, AnyNumberOfWorkersSeesTheSamePixelsAlsoWhenResumed) {
  const Dataset data = bytes();
  LoaderOptions options;
  options.seed = 4;
  options.shuffle = false;
  options.global_batch = 20;
  options.augment = kBoth;
  const auto images = seen_by(data, options, 0, 6);  // two epochs
  ASSERT_EQ(images.size(), 2u * kImages);
  for (const int world : {2, 3, 7}) {
    options.world = options.virtual_workers = world;
    options.microbatch = 4;
    EXPECT_EQ(seen_by(data, options, 0, 6), images) << world;
    EXPECT_EQ(seen_by(data, options, 40, 4), std::vector(images.begin() + 40, images.end())) << world;
  }

  BatchMemory memory;
  int differ = 0;
  for (int64_t i = 0; i < 2 * kImages; ++i) {
    const Augmentation of_epoch(kBoth, 4, i / kImages);
    const std::vector<int64_t> sample{i % kImages};
    EXPECT_EQ(images[i], image_of(gather(data, sample, 0, 1, memory, &of_epoch), 0)) << i;
    if (i < kImages) differ += images[i] != images[i + kImages];
  }
  EXPECT_GT(differ, kImages * 9 / 10);  // a new draw in the second epoch
}

TEST(Augmentation, EverySampleEpochAndSeedDrawsAnew) {
  std::map<int64_t, int> down, right;
  std::set<std::pair<int64_t, int64_t>> places;
  int mirrored = 0, same_next_epoch = 0, same_other_seed = 0, same_next_sample = 0;
  constexpr int kSamples = 8100;
  const Augmentation augmentation(kBoth, 1, 0), next_epoch(kBoth, 1, 1), other_seed(kBoth, 2, 0);
  for (int64_t i = 0; i < kSamples; ++i) {
    const Change change = augmentation.of(i);
    ++down[change.down], ++right[change.right];
    places.emplace(change.down, change.right);
    mirrored += change.mirrored;
    same_next_epoch += change == next_epoch.of(i);
    same_other_seed += change == other_seed.of(i);
    same_next_sample += change == augmentation.of(i + 1);
    EXPECT_EQ(change, Augmentation(kBoth, 1, 0).of(i));
  }
  EXPECT_EQ(places.size(), 81u);
  for (const auto* counts : {&down, &right}) {
    EXPECT_EQ(counts->begin()->first, -4);
    EXPECT_EQ(counts->rbegin()->first, 4);
    for (const auto& [shift, count] : *counts) EXPECT_NEAR(count, kSamples / 9, 130) << shift;  // 4.6 sigma
  }
  EXPECT_NEAR(mirrored, kSamples / 2, 200);
  for (const int same : {same_next_epoch, same_other_seed, same_next_sample})
    EXPECT_NEAR(same, kSamples / 162, 35);
}

TEST(Augmentation, WhatIsNotAskedForIsLeft) {
  for (int64_t i = 0; i < 100; ++i) {
    const Change both = Augmentation(kBoth, 1, 0).of(i);
    EXPECT_EQ(Augmentation({.crop = true, .flip = false}, 1, 0).of(i),
              (Change{both.down, both.right, false}));
    EXPECT_EQ(Augmentation({.crop = false, .flip = true}, 1, 0).of(i), (Change{0, 0, both.mirrored}));
    EXPECT_EQ(Augmentation({}, 1, 0).of(i), Change{});
  }
}

// A run that is resumed by a later build must see what it would have seen.
TEST(Augmentation, DrawsStayWhatTheyAre) {
  std::vector<Change> changes;
  for (const int64_t sample : {0, 1, 59999}) changes.push_back(Augmentation(kBoth, 1, 2).of(sample));
  EXPECT_EQ(changes, (std::vector<Change>{{-4, 3, false}, {-3, 1, false}, {0, 3, true}}));
}

TEST_F(AugmentTest, SamplesThatAreNoImagesAreRefused) {
  EXPECT_THAT(error_of([&] { floats({4, 8}, kBoth); }), HasSubstr("samples of shape [8] are no images"));
  EXPECT_THAT(error_of([&] { floats({4, 2, 3, 5, 5}, {.flip = true}); }), HasSubstr("[2, 3, 5, 5]"));
  EXPECT_EQ(floats({4, 8}).size(), 4);
  EXPECT_EQ(floats({4, 3, 8, 8}, kBoth).size(), 4);
  EXPECT_EQ(bytes(kBoth).size(), kImages);

  const Augmentation augmentation(kBoth, 1, 0);
  BatchMemory memory;
  EXPECT_THROW(gather(floats({4, 8}), std::vector<int64_t>{0}, 0, 1, memory, &augmentation), Error);
}

}  // namespace
}  // namespace rekindle
