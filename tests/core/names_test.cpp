// SPDX-License-Identifier: Apache-2.0
#include "core/names.h"

#include <gtest/gtest.h>

namespace rekindle::names {
namespace {

TEST(Names, AreThoseThatScriptsKnow) {
  EXPECT_EQ(step(1200), "step-000001200");
  EXPECT_EQ(step(12'345'678'901), "step-12345678901");
  EXPECT_EQ(step_temporary(1200, "a1"), ".step-000001200.tmp-a1");
  EXPECT_EQ(step_aside(1200, "a1"), ".step-000001200.aside-a1");
  EXPECT_EQ(optimizer_part(0, 2), "optimizer-00001-of-00002.safetensors");
  EXPECT_EQ(log_of(3), "rank-3.log");
}

TEST(Names, OnlyAStepsOwnNameIsReadBack) {
  for (const int64_t number : {int64_t{0}, int64_t{1200}, int64_t{999'999'999}, int64_t{12'345'678'901}}) {
    EXPECT_EQ(step_in(step(number)), number);
  }
  for (const char* other : {"", "step-", "step-7", "step-0000012x0", "step-000001200x", "step--00000012",
                            "latest", ".step-000001200.tmp-a", "step-99999999999999999999"}) {
    EXPECT_EQ(step_in(other), -1) << other;
  }
}

}  // namespace
}  // namespace rekindle::names
