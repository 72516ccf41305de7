// SPDX-License-Identifier: Apache-2.0
#include "checkpoints/optimizer_part.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <numeric>

#include "core/digest.h"
#include "core/error.h"
#include "core/names.h"
#include "tests/support/temp_directory.h"

namespace rekindle {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

class OptimizerPartTest : public testing::Test {
 protected:
  OptimizerPartTest() {
    layout_.append("a/odd@name", {3, 5000});
    layout_.append("b", {7});
    layout_.append("c", {2 * kBlock});
    line_.resize(static_cast<size_t>(layout_.size()));
    std::iota(line_.begin(), line_.end(), 0.f);
  }

  // Rank's share of both moments, cut as a run on `world` ranks would cut it. Moment "v" is 0.5 above "m".
  void save(int rank, int world) {
    const Range mine = FlatLayout::slice({0, layout_.size()}, rank, world);
    std::vector<float> second(line_);
    for (float& value : second) value += 0.5f;
    std::vector<ShardView> shards;
    for (const FlatLayout::Entry& entry : layout_.entries()) {
      const Range part = entry.range.intersect(mine);
      if (part.empty()) continue;
      const auto bytes = [&](const std::vector<float>& line) {
        return std::as_bytes(std::span(line))
            .subspan(static_cast<size_t>(part.begin) * 4, static_cast<size_t>(part.size()) * 4);
      };
      const int64_t offset = part.begin - entry.range.begin;
      shards.push_back({entry.name, "m", offset, part.size(), bytes(line_)});
      shards.push_back({entry.name, "v", offset, part.size(), bytes(second)});
    }
    put(names::optimizer_part(rank, world), shards);
  }

  void put(const std::string& name, const std::vector<ShardView>& shards) {
    const auto path = directory_.path() / name;
    records_.push_back(record_of(files_, path, write_optimizer_part(files_, path, shards)));
  }

  OptimizerParts open() { return OptimizerParts(files_, directory_.path(), Manifest(records_)); }

  std::vector<float> read(const OptimizerParts& parts, const std::string& parameter,
                          const std::string& moment, Range range) {
    std::vector<float> values(static_cast<size_t>(range.size()), -1);
    parts.read(parameter, moment, range, std::as_writable_bytes(std::span(values)));
    return values;
  }

  TempDirectory directory_;
  FileSystem& files_ = posix_file_system();
  FlatLayout layout_;
  std::vector<float> line_;
  std::vector<FileRecord> records_;
};

TEST_F(OptimizerPartTest, AnyWorldReadsWhatAnyWorldSaved) {
  for (const int saved_by : {1, 2, 3, 8}) {
    records_.clear();
    for (int rank = 0; rank < saved_by; ++rank) save(rank, saved_by);
    const OptimizerParts parts = open();
    for (const int world : {1, 2, 3, 8}) {
      for (int rank = 0; rank < world; ++rank) {
        const Range mine = FlatLayout::slice({0, layout_.size()}, rank, world);
        for (const FlatLayout::Entry& entry : layout_.entries()) {
          const Range part = entry.range.intersect(mine);
          const Range within{part.begin - entry.range.begin, part.end - entry.range.begin};
          if (part.empty()) continue;
          const std::vector<float> expected(line_.begin() + part.begin, line_.begin() + part.end);
          EXPECT_EQ(read(parts, entry.name, "m", within), expected) << saved_by << " to " << world;
          EXPECT_EQ(read(parts, entry.name, "v", within)[0], expected[0] + 0.5f);
        }
      }
    }
  }
}

TEST_F(OptimizerPartTest, AnyRangeIsPutTogetherFromThePartsThatHoldIt) {
  for (int rank = 0; rank < 3; ++rank) save(rank, 3);
  const OptimizerParts parts = open();
  for (const Range range :
       {Range{0, 1}, Range{4095, 4097}, Range{1, 14999}, Range{8191, 8193}, Range{14999, 15000}}) {
    EXPECT_EQ(read(parts, "a/odd@name", "m", range),
              std::vector<float>(line_.begin() + range.begin, line_.begin() + range.end));
  }
  EXPECT_THAT(read(parts, "b", "m", {3, 3}), IsEmpty());
  EXPECT_THAT(parts.moments("b"), ElementsAre("m", "v"));
  EXPECT_THAT(parts.moments("none"), IsEmpty());
}

TEST_F(OptimizerPartTest, WhatIsMissingIsNamed) {
  for (int rank = 0; rank < 3; ++rank) {
    if (rank != 1) save(rank, 3);
  }
  const OptimizerParts parts = open();
  const auto refusal = [&](const std::string& parameter, const std::string& moment,
                           Range range) -> std::string {
    try {
      read(parts, parameter, moment, range);
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ExitCode::kBadInput);
      EXPECT_EQ(error.details().where, directory_.path().string());
      return error.summary();
    }
    return "read";
  };
  const int64_t hole = FlatLayout::slice({0, layout_.size()}, 0, 3).end;
  EXPECT_EQ(refusal("a/odd@name", "m", {0, hole}), "read");
  EXPECT_THAT(refusal("a/odd@name", "m", {5, 15000}),
              HasSubstr("m of a/odd@name from element " + std::to_string(hole) + " of [5, 15000)"));
  EXPECT_THAT(refusal("a/odd@name", "m", {hole, 15000}), HasSubstr("from element " + std::to_string(hole)));
  EXPECT_THAT(refusal("c", "m", {2 * kBlock - 1, 2 * kBlock + 1}),
              HasSubstr("from element " + std::to_string(2 * kBlock)));
  EXPECT_THAT(refusal("b", "none", {0, 7}), HasSubstr("none of b from element 0"));
  EXPECT_THAT(refusal("z", "m", {0, 1}), HasSubstr("m of z"));
  std::vector<std::byte> wrong(3);
  EXPECT_THROW(parts.read("c", "m", {0, 1}, wrong), Error);
}

TEST_F(OptimizerPartTest, AHoleInTheMiddleIsNotSkipped) {
  const std::vector<float> values(10);
  const auto bytes = std::as_bytes(std::span(values));
  put("optimizer-1.safetensors", {{"w", "m", 0, 10, bytes}, {"w", "m", 20, 10, bytes}});
  const OptimizerParts parts = open();
  EXPECT_EQ(read(parts, "w", "m", {20, 30}), values);
  EXPECT_THROW(read(parts, "w", "m", {0, 30}), Error);
  EXPECT_THROW(read(parts, "w", "m", {15, 30}), Error);
}

TEST_F(OptimizerPartTest, TwoThatHoldTheSameElementsAreRefused) {
  const std::vector<float> values(10);
  const auto bytes = std::as_bytes(std::span(values));
  put("optimizer-1.safetensors", {{"w", "m", 0, 10, bytes}});
  put("optimizer-2.safetensors", {{"w", "m", 9, 10, bytes}});
  EXPECT_THROW(open(), Error);
}

TEST_F(OptimizerPartTest, OffsetAndLengthStandInTheMetadata) {
  const std::vector<float> values(10);
  put("optimizer-1.safetensors", {{"w", "m", 4096, 10, std::as_bytes(std::span(values))}});
  const safetensors::Reader reader(files_, directory_.path() / "optimizer-1.safetensors");
  EXPECT_EQ(reader.metadata().at("w/m@4096"), R"({"length":10,"moment":"m","offset":4096,"parameter":"w"})");
}

TEST_F(OptimizerPartTest, AForeignFileOfThatNameIsRefused) {
  const std::vector<float> values(10);
  const auto view = std::vector<safetensors::TensorView>{
      {"w", safetensors::DType::kF32, {10}, std::as_bytes(std::span(values))}};
  const auto path = directory_.path() / "optimizer-1.safetensors";
  for (const safetensors::Metadata& metadata :
       {safetensors::Metadata{},
        {{"w", "{}"}},
        {{"w", "[[[["}},
        {{"w", R"({"parameter":"w","moment":"m","offset":0,"length":9})"}},
        {{"w", R"({"parameter":"w","moment":"m","offset":-1,"length":10})"}},
        {{"w", R"({"parameter":"w","moment":"m","offset":9223372036854775807,"length":10})"}}}) {
    records_ = {record_of(files_, path, safetensors::write(files_, path, view, metadata))};
    EXPECT_THROW(open(), Error);
  }
}

TEST_F(OptimizerPartTest, EqualShardsGiveEqualBytesAndNoneIsFine) {
  const std::vector<float> values(10);
  const auto bytes = std::as_bytes(std::span(values));
  const std::vector<ShardView> one = {{"w", "m", 0, 10, bytes}, {"b", "m", 0, 10, bytes}},
                               two = {one[1], one[0]};
  EXPECT_EQ(write_optimizer_part(files_, directory_.path() / "1", one),
            write_optimizer_part(files_, directory_.path() / "2", two));
  put("optimizer-1.safetensors", {});  // a rank that owns nothing
  EXPECT_THAT(open().moments("w"), IsEmpty());
}

}  // namespace
}  // namespace rekindle
