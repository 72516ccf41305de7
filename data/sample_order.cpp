// SPDX-License-Identifier: Apache-2.0
#include "data/sample_order.h"

#include <algorithm>
#include <bit>
#include <string>

#include "core/digest.h"
#include "core/error.h"

namespace rekindle {
namespace {

// In a network of fewer bits some orders of few samples come up more often than others.
constexpr int kLeastBits = 8;
// "order": keeps these keys apart from those of other random streams.
constexpr uint64_t kStream = 0x6f72646572;

// 32 well-mixed bits: the finalizer of MurmurHash3 around a key.
uint64_t mix(uint64_t half, uint64_t key) {
  uint64_t x = (half ^ key) * 0xff51afd7ed558ccd;
  x = (x ^ x >> 33) * 0xc4ceb9fe1a85ec53;
  return x >> 32;
}

constexpr uint64_t mask(int bits) {
  return (uint64_t{1} << bits) - 1;
}

}  // namespace

SampleOrder::SampleOrder(uint64_t seed, int64_t epoch, int64_t size, bool shuffle) : size_(size) {
  if (size < 0) throw Error("a sample order of negative size " + std::to_string(size));
  if (size < 2 || !shuffle) return;  // a network of no bits changes nothing
  const int bits = std::max(kLeastBits, static_cast<int>(std::bit_width(static_cast<uint64_t>(size - 1))));
  left_bits_ = bits / 2;
  right_bits_ = bits - left_bits_;
  for (uint64_t round = 0; round < kRounds; ++round) {
    keys_[round] = hash64({kStream, seed, static_cast<uint64_t>(epoch), round});
  }
}

int64_t SampleOrder::at(int64_t position) const {
  if (position < 0 || position >= size_) {
    throw Error("position " + std::to_string(position) + " in an order of " + std::to_string(size_) +
                " samples");
  }
  const auto size = static_cast<uint64_t>(size_);
  uint64_t value = permute(static_cast<uint64_t>(position));
  while (value >= size) value = permute(value);
  return static_cast<int64_t>(value);
}

uint64_t SampleOrder::permute(uint64_t value) const {
  uint64_t left = value >> right_bits_, right = value & mask(right_bits_);
  // Each half changes by the other alone, so each step can be undone.
  for (int round = 0; round < kRounds; round += 2) {
    left ^= mix(right, keys_[round]) & mask(left_bits_);
    right ^= mix(left, keys_[round + 1]) & mask(right_bits_);
  }
  return left << right_bits_ | right;
}

}  // namespace rekindle
