// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <cstdint>

namespace rekindle {

// The order of one epoch: a permutation of 0..size-1 that is a pure function of seed and epoch, computed per
// position in constant time and memory, so that a run resumes anywhere, on any number of workers, at once.
// A Feistel network over the next power of two, 256 at least; results past the end go through it again until
// they are inside ("cycle walking", Black and Rogaway 2002), for more than 128 samples less than twice on
// average.
class SampleOrder {
 public:
  SampleOrder(uint64_t seed, int64_t epoch, int64_t size, bool shuffle);  // shuffle false: the identity

  int64_t size() const { return size_; }
  int64_t at(int64_t position) const;  // 0 <= position < size, else throws Error

 private:
  static constexpr int kRounds = 6;

  uint64_t permute(uint64_t value) const;  // of all numbers of left_bits_ + right_bits_ bits

  int64_t size_;
  int left_bits_ = 0, right_bits_ = 0;
  std::array<uint64_t, kRounds> keys_{};
};

}  // namespace rekindle
