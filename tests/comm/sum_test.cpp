// SPDX-License-Identifier: Apache-2.0
#include "comm/sum.h"

#include <gtest/gtest.h>

#include <cmath>
#include <vector>

namespace rekindle {
namespace {

std::vector<std::vector<float>> sources(int world, int64_t count) {
  std::vector<std::vector<float>> all(world, std::vector<float>(count));
  for (int r = 0; r < world; ++r) {
    for (int64_t i = 0; i < count; ++i)
      all[r][i] = std::sin(static_cast<float>(i * 7 + r * 13)) * std::pow(10.f, r % 3);
  }
  return all;
}

TEST(Sum, AddsInTheOrderOfTheSourcesWhereverTheResultGoes) {
  for (int world = 1; world <= 5; ++world) {
    for (const int64_t count : {0, 1, 15, 16, 17, 2047, 2048, 5000}) {
      for (int owner = 0; owner < world; ++owner) {
        auto values = sources(world, count);
        std::vector<float> expected(count);
        for (int64_t i = 0; i < count; ++i) {
          float total = values[0][i];
          for (int r = 1; r < world; ++r) total += values[r][i];
          expected[i] = total;
        }
        std::vector<const float*> pointers;
        for (const auto& source : values) pointers.push_back(source.data());
        sum(values[owner].data(), std::span<const float* const>(pointers), count);
        EXPECT_EQ(values[owner], expected) << "world " << world << " owner " << owner << " count " << count;
      }
    }
  }
}

}  // namespace
}  // namespace rekindle
