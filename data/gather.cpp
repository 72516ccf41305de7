// SPDX-License-Identifier: Apache-2.0
#include "data/gather.h"

#include <ATen/ops/empty.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <vector>

#include "core/error.h"

namespace rekindle {
namespace {

using Table = std::array<float, 256>;

// What each byte becomes; rounded once, so no arithmetic is more exact.
Table normalised(double mean, double std) {
  if (!(std > 0) || !std::isfinite(std) || !std::isfinite(mean)) {
    throw bad_input(
        "data.normalize divides by " + std::to_string(std) + " after taking off " + std::to_string(mean), "",
        "std is above 0");
  }
  Table table;
  for (int byte = 0; byte < 256; ++byte) table[byte] = static_cast<float>((byte / 255.0 - mean) / std);
  return table;
}

void translate(std::span<const std::byte> bytes, const Table& table, float* into) {
  for (size_t i = 0; i < bytes.size(); ++i) into[i] = table[std::to_integer<size_t>(bytes[i])];
}

// Samples in shuffled order lie anywhere: a loop that does not ask for the next ones early waits for memory
// half of its time. Of long samples the beginning will do, the processor sees by itself how they go on.
constexpr size_t kSamplesAhead = 3, kBytesAhead = 4096, kCacheLine = 64;
void prefetch(std::span<const std::byte> sample) {
  const size_t bytes = std::min(sample.size(), kBytesAhead);
  for (size_t offset = 0; offset < bytes; offset += kCacheLine) __builtin_prefetch(&sample[offset]);
}

}  // namespace

Batch gather(const Dataset& data, std::span<const int64_t> indices, double mean, double std,
             BatchMemory& memory) {
  const DataShape shape = data.shape();
  const auto samples = static_cast<int64_t>(indices.size());
  std::vector<int64_t> sizes{samples};
  sizes.insert(sizes.end(), shape.sample().begin(), shape.sample().end());
  const bool integers = data.element() == Element::kInteger;
  Batch batch{.x = integers ? at::empty(sizes, at::kLong) : memory.floats(sizes),
              .y = at::empty({samples}, at::kLong)};

  // Plain loops: for rows of a kilobyte, indexing by tensors costs more than the copy.
  auto* x = static_cast<std::byte*>(batch.x.mutable_data_ptr());
  auto* y = static_cast<int64_t*>(batch.y.mutable_data_ptr());
  const Table table = normalised(mean, std);
  const int64_t sample_bytes = shape.features() * batch.x.element_size();
  for (size_t i = 0; i < indices.size(); ++i) {
    if (i + kSamplesAhead < indices.size()) prefetch(data.sample(indices[i + kSamplesAhead]));
    const std::span<const std::byte> sample = data.sample(indices[i]);
    if (data.element() == Element::kByte) {
      translate(sample, table, reinterpret_cast<float*>(x));
    } else {
      std::memcpy(x, sample.data(), sample.size());
    }
    x += sample_bytes;
    y[i] = data.label(indices[i]);
  }
  return batch;
}

Batch gather(const Dataset& data, std::span<const int64_t> indices, double mean, double std) {
  BatchMemory memory;
  return gather(data, indices, mean, std, memory);
}

}  // namespace rekindle
