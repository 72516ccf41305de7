// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace rekindle {

// Elements in a block: the unit of slices, norms and digests. Every parameter starts at one.
inline constexpr int64_t kBlock = 4096;

// A half-open range of elements.
struct Range {
  int64_t begin = 0, end = 0;

  int64_t size() const { return end - begin; }
  bool empty() const { return end <= begin; }
  Range intersect(Range other) const;
  bool operator==(const Range&) const = default;
};

// Where each parameter of one dtype lies in one logical line of blocks. The same on every rank and for every
// number of ranks, so that what one world wrote another reads. Padding between parameters is always zero.
class FlatLayout {
 public:
  struct Entry {
    std::string name;
    std::vector<int64_t> shape;
    Range range;  // of its elements, without padding
  };

  void append(std::string name, std::vector<int64_t> shape);  // throws Error for a name that is there

  const std::vector<Entry>& entries() const { return entries_; }
  int64_t size() const { return size_; }  // elements, padding included: a multiple of kBlock
  int64_t elements() const;               // without padding
  int64_t blocks() const { return size_ / kBlock; }

  std::string text() const;  // names and shapes, for comparing

  // The part of `whole` that `rank` of `world` owns: contiguous, cut at multiples of `unit` elements from its
  // begin, as even as can be. Ranges of all ranks cover `whole` without overlap; some are empty where there
  // are fewer units than ranks.
  static Range slice(Range whole, int rank, int world, int64_t unit = kBlock);

  // Ranges that cover the line from its end to its start, cut where parameters start: gradients become ready
  // in about this order. The first holds up to `first_bytes`, the others up to `bytes`, one parameter at
  // least.
  std::vector<Range> buckets(int64_t first_bytes, int64_t bytes, int64_t element_size) const;

 private:
  std::vector<Entry> entries_;
  int64_t size_ = 0;
};

}  // namespace rekindle
