// SPDX-License-Identifier: Apache-2.0
#include "launcher/table.h"

#include <gtest/gtest.h>

namespace rekindle {
namespace {

TEST(Table, ColumnsLineUpAndNumbersStandToTheRight) {
  EXPECT_EQ(table({{"name", "size"}, {"a", "5"}, {"naïve", "1,200"}}),
            "name    size\n"
            "a          5\n"
            "naïve  1,200\n");
}

TEST(Table, AColumnWithWordsStandsToTheLeft) {
  EXPECT_EQ(table({{"a", "b"}, {"x", "10"}, {"y", "none"}}), "a  b\nx  10\ny  none\n");
}

TEST(Table, NumbersAsPeopleReadThem) {
  EXPECT_EQ(grouped(0), "0");
  EXPECT_EQ(grouped(999), "999");
  EXPECT_EQ(grouped(1000), "1,000");
  EXPECT_EQ(grouped(-1234567), "-1,234,567");
  EXPECT_EQ(bytes_text(999), "999 B");
  EXPECT_EQ(bytes_text(1500), "1.5 kB");
  EXPECT_EQ(bytes_text(1000000000), "1.0 GB");
}

}  // namespace
}  // namespace rekindle
