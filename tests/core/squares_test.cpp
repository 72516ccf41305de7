// SPDX-License-Identifier: Apache-2.0
#include "core/squares.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <vector>

namespace rekindle {
namespace {

TEST(Squares, AreSummedInFloat64) {
  for (const int64_t count : {0, 1, 15, 16, 33, 4096}) {
    std::vector<float> values;
    for (int64_t i = 0; i < count; ++i) values.push_back(1.f / static_cast<float>(i + 3));
    double expected = 0;
    for (const float value : values) expected += static_cast<double>(value) * value;
    EXPECT_NEAR(sum_of_squares(values.data(), count), expected, 1e-12 * (1 + expected));
  }
}

TEST(Squares, ShowWhatIsNotFinite) {
  std::vector<float> values(4096, 1.f);
  values[4095] = std::numeric_limits<float>::quiet_NaN();
  EXPECT_TRUE(std::isnan(sum_of_squares(values.data(), 4096)));
  values[4095] = std::numeric_limits<float>::infinity();
  EXPECT_TRUE(std::isinf(sum_of_squares(values.data(), 4096)));
}

}  // namespace
}  // namespace rekindle
