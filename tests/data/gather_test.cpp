// SPDX-License-Identifier: Apache-2.0
#include "data/gather.h"

#include <cmath>

#include "tests/data/errors.h"
#include "tests/data/files.h"
#include "tests/support/temp_directory.h"

namespace rekindle {
namespace {

class GatherTest : public testing::Test {
 protected:
  // One sample that holds every byte once, and one that holds them backwards.
  Dataset bytes() const {
    std::string pixels;
    for (int i = 0; i < 256; ++i) pixels += static_cast<char>(i);
    for (int i = 0; i < 256; ++i) pixels += static_cast<char>(255 - i);
    write_bytes(directory_.path() / "images", idx({2, 8, 32}, pixels));
    write_bytes(directory_.path() / "labels", idx({2}, {'\7', '\2'}));
    return Dataset(posix_file_system(), {.increments = {{.images = directory_.path() / "images",
                                                         .labels = directory_.path() / "labels",
                                                         .path = {},
                                                         .range = {}}}});
  }

  TempDirectory directory_;
};

TEST_F(GatherTest, NormalisesBytes) {
  const Dataset data = bytes();
  const std::vector<int64_t> indices{1, 0, 1};
  for (const auto& [mean, std] : {std::pair(0.0, 1.0), std::pair(0.2860, 0.3530), std::pair(-1.0, 1e-3)}) {
    const Batch batch = gather(data, indices, mean, std);
    EXPECT_EQ(batch.samples(), 3);
    EXPECT_EQ(batch.x.sizes(), (std::vector<int64_t>{3, 1, 8, 32}));
    EXPECT_EQ(batch.y.const_data_ptr<int64_t>()[0], 0);
    EXPECT_EQ(batch.y.const_data_ptr<int64_t>()[1], 1);
    const float* x = batch.x.const_data_ptr<float>();
    for (int byte = 0; byte < 256; ++byte) {
      const auto expected = static_cast<float>((byte / 255.0 - mean) / std);
      EXPECT_FLOAT_EQ(x[256 + byte], expected);
      EXPECT_FLOAT_EQ(x[255 - byte], expected);
      EXPECT_EQ(x[512 + byte], x[byte]);
    }
  }
}

TEST_F(GatherTest, LeavesFloatsAlone) {
  const std::vector<float> x{1e-40f, -0.0f, 3.4e38f, 0.1f, 5, 6};
  write_safetensors(directory_.path() / "a", {3, 2}, x, {5, 4, 5});
  const Dataset data(
      posix_file_system(),
      {.kind = "safetensors",
       .increments = {{.images = {}, .labels = {}, .path = directory_.path() / "a", .range = {}}}});
  const std::vector<int64_t> indices{1, 0};
  const Batch batch = gather(data, indices, 0.5, 2);
  EXPECT_EQ(batch.x.sizes(), (std::vector<int64_t>{2, 2}));
  const float* values = batch.x.const_data_ptr<float>();
  EXPECT_EQ(std::vector<float>(values, values + 4), (std::vector<float>{3.4e38f, 0.1f, 1e-40f, -0.0f}));
  EXPECT_TRUE(std::signbit(values[3]));
  EXPECT_EQ(batch.y.const_data_ptr<int64_t>()[0], 0);
  EXPECT_EQ(batch.y.const_data_ptr<int64_t>()[1], 1);
}

TEST_F(GatherTest, LeavesIntegersAlone) {
  const std::vector<int64_t> x{30521, 0, -1, int64_t{1} << 60, 7, 8}, y{5, 4, 5};
  safetensors::write(
      posix_file_system(), directory_.path() / "a",
      {view("x", safetensors::DType::kI64, {3, 2}, x), view("y", safetensors::DType::kI64, {3}, y)});
  const Dataset data(
      posix_file_system(),
      {.kind = "safetensors",
       .increments = {{.images = {}, .labels = {}, .path = directory_.path() / "a", .range = {}}}});
  EXPECT_EQ(data.element(), Element::kInteger);
  const std::vector<int64_t> indices{1, 0};
  const Batch batch = gather(data, indices, 0.5, 2);
  EXPECT_EQ(batch.x.sizes(), (std::vector<int64_t>{2, 2}));
  const int64_t* values = batch.x.const_data_ptr<int64_t>();
  EXPECT_EQ(std::vector<int64_t>(values, values + 4), (std::vector<int64_t>{-1, int64_t{1} << 60, 30521, 0}));
}

TEST_F(GatherTest, OfNothingIsEmpty) {
  const Batch batch = gather(bytes(), {}, 0, 1);
  EXPECT_EQ(batch.samples(), 0);
  EXPECT_EQ(batch.x.sizes(), (std::vector<int64_t>{0, 1, 8, 32}));
}

TEST_F(GatherTest, RefusesWhatIsNotThere) {
  const Dataset data = bytes();
  for (const int64_t bad : {int64_t{2}, int64_t{-1}, INT64_MAX}) {
    const std::vector<int64_t> indices{0, bad};
    EXPECT_THROW(gather(data, indices, 0, 1), Error);
  }
  const std::vector<int64_t> indices{0};
  for (const double std : {0.0, -1.0, std::nan("")}) {
    EXPECT_THAT(error_of([&] { gather(data, indices, 0, std); }), testing::HasSubstr("std is above 0"));
  }
}

}  // namespace
}  // namespace rekindle
