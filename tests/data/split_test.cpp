// SPDX-License-Identifier: Apache-2.0
#include "data/split.h"

#include <algorithm>
#include <cmath>
#include <set>

#include "tests/data/errors.h"
#include "tests/data/files.h"
#include "tests/support/temp_directory.h"

namespace rekindle {
namespace {

constexpr int64_t kSamples = 20'000;

class SplitTest : public testing::Test {
 protected:
  SplitTest() {
    write_bytes(images_, idx({kSamples, 2, 3}, pixels(kSamples, 6)));
    write_bytes(labels_, idx({kSamples}, labels(kSamples, 10)));
  }
  IncrementOptions range(int64_t begin, int64_t end) const {
    return {.images = images_, .labels = labels_, .path = {}, .range = std::pair(begin, end)};
  }
  static Dataset open(const std::vector<IncrementOptions>& increments) {
    return Dataset(posix_file_system(), {.kind = "idx", .increments = increments});
  }

  TempDirectory directory_;
  std::filesystem::path images_ = directory_.path() / "images", labels_ = directory_.path() / "labels";
};

std::set<int64_t> numbers(const Dataset& data, const std::vector<int64_t>& indices) {
  std::set<int64_t> numbers;
  for (const int64_t index : indices) numbers.insert(number_of(data.sample(index)));
  return numbers;
}

bool contains(const std::set<int64_t>& outer, const std::set<int64_t>& inner) {
  return std::includes(outer.begin(), outer.end(), inner.begin(), inner.end());
}

TEST_F(SplitTest, SidesAreDisjointCompleteAndOfTheirShare) {
  const Dataset data = open({range(0, kSamples)});
  const Split sides = split(data, {.validation = 0.1, .test = 0.2});
  std::vector<int64_t> all;
  for (const auto* side : {&sides.train, &sides.validation, &sides.test}) {
    EXPECT_TRUE(std::is_sorted(side->begin(), side->end()));
    all.insert(all.end(), side->begin(), side->end());
  }
  std::sort(all.begin(), all.end());
  ASSERT_EQ(static_cast<int64_t>(all.size()), kSamples);
  for (int64_t i = 0; i < kSamples; ++i) EXPECT_EQ(all[static_cast<size_t>(i)], i);
  const auto sigma = [](double share) { return std::sqrt(share * (1 - share) * kSamples); };
  EXPECT_NEAR(static_cast<double>(sides.validation.size()), 0.1 * kSamples, 5 * sigma(0.1));
  EXPECT_NEAR(static_cast<double>(sides.test.size()), 0.2 * kSamples, 5 * sigma(0.2));
}

TEST_F(SplitTest, NoSampleChangesSideWhenDataIsAdded) {
  const Dataset before = open({range(5000, 9000)});
  const Dataset after = open({range(12'000, kSamples), range(5000, 9000), range(0, 3000)});
  const SplitOptions options{.validation = 0.1, .test = 0.2};
  const Split old_sides = split(before, options), new_sides = split(after, options);
  EXPECT_TRUE(contains(numbers(after, new_sides.train), numbers(before, old_sides.train)));
  EXPECT_TRUE(contains(numbers(after, new_sides.validation), numbers(before, old_sides.validation)));
  EXPECT_TRUE(contains(numbers(after, new_sides.test), numbers(before, old_sides.test)));
}

TEST_F(SplitTest, SharesAreNested) {
  const Dataset data = open({range(0, kSamples)});
  const Split small = split(data, {.validation = 0.05, .test = 0.1});
  const Split large = split(data, {.validation = 0.2, .test = 0.3});
  EXPECT_TRUE(contains(numbers(data, large.test), numbers(data, small.test)));
  EXPECT_TRUE(contains(numbers(data, large.validation), numbers(data, small.validation)));
  EXPECT_TRUE(contains(numbers(data, small.train), numbers(data, large.train)));
  for (const int64_t index : large.test) {
    const bool in_small = std::binary_search(small.test.begin(), small.test.end(), index);
    EXPECT_EQ(in_small, split_key(data, index) < 0.1);
  }
}

TEST_F(SplitTest, DuplicatesStayTogetherWhateverTheirLabel) {
  write_bytes(directory_.path() / "others", idx({kSamples}, std::string(kSamples, '\3')));
  IncrementOptions copy = range(0, kSamples);
  copy.labels = directory_.path() / "others";
  const Dataset data = open({range(0, kSamples), copy});
  const Split sides = split(data, {.validation = 0.1, .test = 0.2});
  for (const auto* side : {&sides.train, &sides.validation, &sides.test}) {
    EXPECT_EQ(numbers(data, *side).size() * 2, side->size());
  }
}

TEST_F(SplitTest, WithoutSharesAllIsForTraining) {
  const Split sides = split(open({range(0, 100)}), {});
  EXPECT_EQ(sides.train.size(), 100u);
  EXPECT_TRUE(sides.validation.empty() && sides.test.empty());
}

// A change of keys would let samples that a parent trained on slip into the test data of its child.
TEST_F(SplitTest, KeysStayTheSameFromVersionToVersion) {
  write_bytes(images_, idx({1, 2, 3}, "abcdef"));
  write_bytes(labels_, idx({1}, "a"));
  EXPECT_DOUBLE_EQ(split_key(open({range(0, 1)}), 0), 0.85363371363543361);
}

TEST_F(SplitTest, RefusesSharesThatCannotBe) {
  const Dataset data = open({range(0, 100)});
  const auto error = [&](const SplitOptions& options) { return error_of([&] { split(data, options); }); };
  EXPECT_THAT(error({.validation = 0.6, .test = 0.4}), testing::HasSubstr("leave nothing"));
  EXPECT_THAT(error({.validation = -0.1, .test = 0.4}), testing::HasSubstr("at least 0"));
  EXPECT_THAT(error({.validation = 0, .test = std::nan("")}), testing::HasSubstr("shares"));
  EXPECT_THAT(error({.validation = 0, .test = 0.1, .by = SplitBy::kTime}), testing::HasSubstr("by time"));
}

}  // namespace
}  // namespace rekindle
