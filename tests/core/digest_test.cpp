// SPDX-License-Identifier: Apache-2.0
#include "core/digest.h"

#include <gtest/gtest.h>

#include <numeric>
#include <vector>

namespace rekindle {
namespace {

// `printf hello | xxhsum -H2` and the vectors of the xxHash project.
TEST(Digest, IsXxh3Of128BitsAsTheToolPrintsIt) {
  EXPECT_EQ(digest_of(""), "99aa06d3014798d86001c324468d497f");
  EXPECT_EQ(digest_of("hello"), "b5e9c1ad071b3e7fc779cfaa5e523818");
}

TEST(Digest, DoesNotDependOnHowTheBytesArrive) {
  std::string text(100'003, '\0');
  std::iota(text.begin(), text.end(), '\0');
  for (const size_t step : {size_t{1}, size_t{255}, size_t{256}, size_t{4097}}) {
    Digest digest;
    for (size_t i = 0; i < text.size(); i += step) digest.update(std::string_view(text).substr(i, step));
    EXPECT_EQ(digest.hex(), digest_of(text)) << step;
  }
}

TEST(Digest, CanBeAskedOnTheWay) {
  Digest digest;
  digest.update("hel");
  EXPECT_EQ(digest.hex(), digest_of("hel"));
  EXPECT_EQ(digest.update("lo").hex(), digest_of("hello"));
}

TEST(Digest, SeesEveryFlippedBit) {
  const std::string text(300, 'x');
  for (size_t bit = 0; bit < text.size() * 8; bit += 7) {
    std::string other = text;
    other[bit / 8] = static_cast<char>(other[bit / 8] ^ (1 << bit % 8));
    EXPECT_NE(digest_of(other), digest_of(text)) << bit;
  }
}

TEST(Hash64, IsXxh3AndTakesASeed) {
  EXPECT_EQ(hash64(std::span<const std::byte>{}), 0x2d06800538d394c2u);
  const std::vector<std::byte> bytes(10, std::byte{7});
  EXPECT_NE(hash64(bytes), hash64(bytes, 1));
  EXPECT_EQ(hash64({1, 2}), hash64({1, 2}));
  EXPECT_NE(hash64({1, 2}), hash64({2, 1}));
  EXPECT_NE(hash64({1}), hash64({1, 0}));
}

}  // namespace
}  // namespace rekindle
