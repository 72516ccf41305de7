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

// Writes samples of a data set as the model gets them.
class Writer {
 public:
  Writer(const Dataset& data, double mean, double std, const Augmentation* augmentation)
      : data_(data), shape_(data.shape()), table_(normalised(mean, std)), augmentation_(augmentation) {
    const bool images = shape_.sample().size() >= 2 && data.element() != Element::kInteger;
    if (augmentation != nullptr && !images)
      throw Error("samples that are no images cannot be augmented");
  }

  void write(int64_t index, std::byte* into) const {
    const std::span<const std::byte> sample = data_.sample(index);
    auto* floats = reinterpret_cast<float*>(into);
    if (augmentation_ != nullptr) {
      write_changed(sample, augmentation_->of(index), floats);
    } else if (data_.element() == Element::kByte) {
      for (size_t i = 0; i < sample.size(); ++i) floats[i] = table_[std::to_integer<size_t>(sample[i])];
    } else {
      std::memcpy(into, sample.data(), sample.size());
    }
  }

 private:
  void write_changed(std::span<const std::byte> sample, const Augmentation::Change& change,
                     float* into) const {
    if (data_.element() == Element::kByte) {
      const auto pixel = [&](int64_t i) { return table_[std::to_integer<size_t>(sample[i])]; };
      write_changed(pixel, table_[0], change, into);
    } else {
      const auto* floats = reinterpret_cast<const float*>(sample.data());
      write_changed([&](int64_t i) { return floats[i]; }, 0, change, into);
    }
  }

  template <typename Pixel>
  void write_changed(const Pixel& pixel, float padding, const Augmentation::Change& change,
                     float* into) const {
    const int64_t height = shape_.sample().end()[-2], width = shape_.sample().back();
    const int64_t rows = shape_.features() / width;  // of all channels
    for (int64_t row = 0; row < rows; ++row, into += width) {
      const int64_t y = row % height + change.down, start = (row + change.down) * width + change.right;
      const bool row_inside = y >= 0 && y < height;
      for (int64_t column = 0; column < width; ++column) {
        const int64_t x = column + change.right;
        const bool inside = row_inside && x >= 0 && x < width;
        into[change.mirrored ? width - 1 - column : column] = inside ? pixel(start + column) : padding;
      }
    }
  }

  const Dataset& data_;
  const DataShape shape_;
  const Table table_;
  const Augmentation* augmentation_;
};

// Samples in shuffled order lie anywhere: a loop that does not ask for the next ones early waits for memory
// half of its time. Of long samples the beginning will do, the processor sees by itself how they go on.
constexpr size_t kSamplesAhead = 3, kBytesAhead = 4096, kCacheLine = 64;
void prefetch(std::span<const std::byte> sample) {
  const size_t bytes = std::min(sample.size(), kBytesAhead);
  for (size_t offset = 0; offset < bytes; offset += kCacheLine) __builtin_prefetch(&sample[offset]);
}

}  // namespace

Batch gather(const Dataset& data, std::span<const int64_t> indices, double mean, double std,
             BatchMemory& memory, const Augmentation* augmentation) {
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
  const Writer writer(data, mean, std, augmentation);
  const int64_t sample_bytes = shape.features() * batch.x.element_size();
  for (size_t i = 0; i < indices.size(); ++i) {
    if (i + kSamplesAhead < indices.size()) prefetch(data.sample(indices[i + kSamplesAhead]));
    writer.write(indices[i], x);
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
