// SPDX-License-Identifier: Apache-2.0
#include "core/text.h"

#include <gtest/gtest.h>

#include "core/error.h"

namespace rekindle {
namespace {

TEST(Text, NearestFindsASlipAndNothingFarther) {
  const std::vector<std::string> keys{"base_lr", "base_batch", "warmup"};
  EXPECT_EQ(nearest("base_rl", keys), "base_lr");
  EXPECT_EQ(nearest("warm_up", keys), "warmup");
  EXPECT_EQ(nearest("colour", keys), "");
}

TEST(Text, Enumerate) {
  EXPECT_EQ(enumerate(std::vector<std::string>{}), "");
  EXPECT_EQ(enumerate(std::vector<std::string>{"a"}), "a");
  EXPECT_EQ(enumerate(std::vector<std::string>{"a", "b", "c"}), "a, b and c");
}

TEST(Text, StampsAreUtcAndSortByTime) {
  EXPECT_EQ(utc_stamp(1763604000.9), "2025-11-20T02-00-00Z");
  EXPECT_LT(utc_stamp(1763604000), utc_stamp(1763604001));
}

TEST(ErrorText, SaysWhatWhereAndHint) {
  const Error error = bad_input("no such file", "day1.gz", "check the path");
  EXPECT_STREQ(error.what(), "no such file\n  at day1.gz\n  hint: check the path");
  EXPECT_EQ(error.code(), ExitCode::kBadInput);
  EXPECT_NE(std::string(system_error("cannot write", 28, "x").what()).find("disk is full"),
            std::string::npos);
}

}  // namespace
}  // namespace rekindle
