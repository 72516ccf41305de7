// SPDX-License-Identifier: Apache-2.0
#include "comm/combine.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <random>
#include <vector>

namespace rekindle {
namespace {

// Combines `values` (by source) and writes into every source, as ranks do; returns what each holds then.
template <typename T>
std::vector<std::vector<T>> combined(Element element, Reduction reduction,
                                     std::vector<std::vector<T>> values) {
  std::vector<const std::byte*> sources;
  std::vector<std::byte*> results;
  for (std::vector<T>& source : values) {
    sources.push_back(reinterpret_cast<const std::byte*>(source.data()));
    results.push_back(reinterpret_cast<std::byte*>(source.data()));
  }
  combine(element, reduction, sources, results, static_cast<int64_t>(values[0].size()));
  return values;
}

template <typename T>
void check_order(Element element) {
  EXPECT_EQ(size_of(element), static_cast<int64_t>(sizeof(T)));
  for (int world = 1; world <= 5; ++world) {
    for (const int64_t count : {0, 1, 15, 17, 2047, 2048, 5000}) {
      std::vector<std::vector<T>> values(world, std::vector<T>(count));
      for (int r = 0; r < world; ++r) {
        for (int64_t i = 0; i < count; ++i)
          values[r][i] = static_cast<T>(std::sin(i * 7 + r * 13) * std::pow(10., r % 3 + 1));
      }
      std::vector<T> sum = values[0], most = values[0];
      for (int r = 1; r < world; ++r) {
        for (int64_t i = 0; i < count; ++i) {
          sum[i] = static_cast<T>(sum[i] + values[r][i]);
          most[i] = std::max(most[i], values[r][i]);
        }
      }
      for (const auto& result : combined(element, Reduction::kSum, values)) EXPECT_EQ(result, sum);
      for (const auto& result : combined(element, Reduction::kMax, values)) EXPECT_EQ(result, most);
    }
  }
}

TEST(Combine, InTheOrderOfTheSourcesIntoAllOfThem) {
  check_order<float>(Element::kFloat32);
  check_order<double>(Element::kFloat64);
  check_order<int64_t>(Element::kInt64);
  check_order<uint8_t>(Element::kUint8);
}

TEST(Combine, ANaNWinsAMaximum) {
  const float nan = std::numeric_limits<float>::quiet_NaN();
  for (const auto& result :
       combined<float>(Element::kFloat32, Reduction::kMax, {{nan, 1}, {1, nan}, {2, 2}})) {
    EXPECT_TRUE(std::isnan(result[0]) && std::isnan(result[1]));
  }
}

// A type of 16 bits by its definition: `exponent` and `mantissa` bits after the sign.
struct Format {
  Element element;
  int exponent, mantissa;

  double value(uint16_t bits) const {
    const int bias = (1 << (exponent - 1)) - 1, field = bits >> mantissa & ((1 << exponent) - 1);
    const double fraction = bits & ((1 << mantissa) - 1), sign = bits & 0x8000 ? -1 : 1;
    if (field == (1 << exponent) - 1)
      return fraction != 0 ? std::nan("") : sign * std::numeric_limits<double>::infinity();
    return sign * std::ldexp(field == 0 ? fraction : fraction + (1 << mantissa),
                             std::max(field, 1) - bias - mantissa);
  }

  // To the nearest; of two as near, to the one with an even last bit. Past the largest: as if the next one
  // were there.
  uint16_t nearest(double wanted) const {
    const uint16_t infinity = static_cast<uint16_t>(((1 << exponent) - 1) << mantissa);
    const uint16_t sign = std::signbit(wanted) ? 0x8000 : 0;
    const double magnitude = std::abs(wanted);
    const auto of = [&](uint16_t bits) {
      return bits == infinity ? 2 * value(infinity - 1) - value(infinity - 2) : value(bits);
    };
    uint16_t low = 0, high = infinity;  // by halving, for values grow with their bits
    while (high - low > 1) {
      const uint16_t middle = static_cast<uint16_t>((low + high) / 2);
      (of(middle) <= magnitude ? low : high) = middle;
    }
    const double below = magnitude - of(low), above = of(high) - magnitude;
    const bool up = above < below || (above == below && low % 2 == 1);
    return sign | (up || magnitude >= of(high) ? high : low);
  }
};

const Format kFormats[] = {{Element::kBfloat16, 8, 7}, {Element::kFloat16, 5, 10}};

TEST(Combine, AllValuesOf16BitsKeepTheirs) {
  for (const Format& format : kFormats) {
    std::vector<uint16_t> all(65536), negative_zero(65536, 0x8000);
    for (int i = 0; i < 65536; ++i) all[i] = static_cast<uint16_t>(i);
    const auto result = combined<uint16_t>(format.element, Reduction::kSum, {all, negative_zero})[1];
    for (int i = 0; i < 65536; ++i) {
      if (std::isnan(format.value(all[i]))) {
        EXPECT_TRUE(std::isnan(format.value(result[i]))) << i;
      } else {
        EXPECT_EQ(result[i], all[i]) << i;
      }
    }
  }
}

TEST(Combine, SumsOf16BitsAreRoundedOnceAtTheEnd) {
  std::mt19937 random(1);
  for (const Format& format : kFormats) {
    for (const int world : {2, 3, 8}) {
      std::vector<std::vector<uint16_t>> values(world, std::vector<uint16_t>(20000));
      for (auto& source : values) {
        // Of like magnitude, from the smallest to the largest there is, so that rounding and overflow happen.
        for (size_t i = 0; i < source.size(); ++i) {
          const auto magnitude =
              i * ((1 << (format.exponent + format.mantissa)) - (1 << format.mantissa)) / source.size();
          source[i] = static_cast<uint16_t>((magnitude ^ (random() & 0xff)) | (random() & 0x8000));
          if (!std::isfinite(format.value(source[i]))) source[i] = 0;
        }
      }
      const auto results = combined(format.element, Reduction::kSum, values);
      for (size_t i = 0; i < values[0].size(); ++i) {
        float sum = static_cast<float>(format.value(values[0][i]));
        for (int r = 1; r < world; ++r) sum += static_cast<float>(format.value(values[r][i]));
        for (int r = 0; r < world; ++r) {
          ASSERT_EQ(results[r][i], format.nearest(sum)) << "element " << i << " of " << world << ": " << sum;
        }
      }
    }
  }
}

}  // namespace
}  // namespace rekindle
