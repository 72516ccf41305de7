// SPDX-License-Identifier: Apache-2.0
#include "core/units.h"

#include <gtest/gtest.h>

#include <cmath>
#include <random>

#include "core/error.h"

namespace rekindle {
namespace {

std::string refusal(std::string_view text) {
  try {
    parse_length(text);
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ExitCode::kBadInput);
    return error.summary();
  }
  ADD_FAILURE() << "'" << text << "' was taken";
  return "";
}

TEST(Units, EveryUnitIsRead) {
  EXPECT_EQ(parse_length("5ep"), (Length{5, Unit::kEpochs}));
  EXPECT_EQ(parse_length("1200ba"), (Length{1200, Unit::kBatches}));
  EXPECT_EQ(parse_length("1200steps"), (Length{1200, Unit::kBatches}));
  EXPECT_EQ(parse_length("2e6sp"), (Length{2e6, Unit::kSamples}));
  EXPECT_EQ(parse_length("1e9tok"), (Length{1e9, Unit::kTokens}));
  EXPECT_EQ(parse_length("0.06dur"), (Length{0.06, Unit::kShare}));
  EXPECT_EQ(parse_length("90sec"), (Length{90, Unit::kSeconds}));
  EXPECT_EQ(parse_length("30min"), (Length{1800, Unit::kSeconds}));
  EXPECT_EQ(parse_length("1.5h"), (Length{5400, Unit::kSeconds}));
}

TEST(Units, ZeroIsALength) {
  EXPECT_TRUE(parse_length("0ba").is_zero());
  EXPECT_FALSE(std::signbit(parse_length("-0ep").value));
  EXPECT_EQ(to_string(parse_length("0h")), "0sec");
}

TEST(Units, AnythingElseIsRefusedWithAReason) {
  EXPECT_NE(refusal("").find("has no number"), std::string::npos);
  EXPECT_NE(refusal("ep").find("has no number"), std::string::npos);
  EXPECT_NE(refusal(" 5ep").find("has no number"), std::string::npos);
  EXPECT_NE(refusal("+5ep").find("has no number"), std::string::npos);
  EXPECT_NE(refusal("5").find("has no unit"), std::string::npos);
  EXPECT_NE(refusal("5 ep").find("unknown unit ' ep'"), std::string::npos);
  EXPECT_NE(refusal("5epochs").find("unknown unit 'epochs'"), std::string::npos);
  EXPECT_NE(refusal("5EP").find("unknown unit 'EP'"), std::string::npos);
  EXPECT_NE(refusal("5ep ").find("unknown unit 'ep '"), std::string::npos);
  EXPECT_NE(refusal("0x5ba").find("unknown unit 'x5ba'"), std::string::npos);
  EXPECT_NE(refusal("-1ba").find("is negative"), std::string::npos);
  EXPECT_NE(refusal("1e999ba").find("is out of range"), std::string::npos);
  EXPECT_NE(refusal("1e308h").find("is out of range"), std::string::npos);
  EXPECT_NE(refusal("infep").find("is out of range"), std::string::npos);
  EXPECT_NE(refusal("nanep").find("is out of range"), std::string::npos);
  EXPECT_NE(refusal("5eq").find("ep (epochs)"), std::string::npos);
}

TEST(Units, TextIsShort) {
  EXPECT_EQ(to_string({5, Unit::kEpochs}), "5ep");
  EXPECT_EQ(to_string({2e6, Unit::kSamples}), "2e6sp");
  EXPECT_EQ(to_string({1e-8, Unit::kShare}), "1e-8dur");
  EXPECT_EQ(to_string({0.06, Unit::kShare}), "0.06dur");
  EXPECT_EQ(to_string({1200, Unit::kBatches}), "1200ba");
  EXPECT_EQ(to_string({600, Unit::kSeconds}), "10min");
  EXPECT_EQ(to_string({7200, Unit::kSeconds}), "2h");
  EXPECT_EQ(to_string({5400, Unit::kSeconds}), "90min");
  EXPECT_EQ(to_string({61, Unit::kSeconds}), "61sec");
  EXPECT_EQ(to_string({0.5, Unit::kSeconds}), "0.5sec");
}

TEST(Units, TextReadsBackToTheSameLength) {
  std::mt19937_64 random(7);
  std::uniform_real_distribution<double> exponent(-30, 30);
  const Unit units[] = {Unit::kSamples, Unit::kBatches, Unit::kEpochs,
                        Unit::kTokens,  Unit::kShare,   Unit::kSeconds};
  for (int i = 0; i < 20000; ++i) {
    const double value = std::pow(10.0, exponent(random));
    const Length length{i % 2 == 0 ? value : std::floor(value), units[i % 6]};
    ASSERT_EQ(parse_length(to_string(length)), length) << to_string(length);
  }
}

}  // namespace
}  // namespace rekindle
