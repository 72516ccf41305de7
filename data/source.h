// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "core/file_system.h"
#include "data/options.h"

namespace rekindle {

// uint8, to be scaled and normalised; float32 and int64 (tokens, say), used as they are
enum class Element { kByte, kFloat, kInteger };

// Where an increment's samples come from: one file, or a pair. Positions count from the start of the file.
class Source {
 public:
  virtual ~Source() = default;

  virtual int64_t samples() const = 0;
  virtual Element element() const = 0;
  virtual std::vector<int64_t> sample_shape() const = 0;  // [channels, height, width] for images
  virtual void read_x(int64_t begin, std::span<std::byte> into) const = 0;     // whole samples from `begin`
  virtual void read_labels(int64_t begin, std::span<int64_t> into) const = 0;  // as they stand in the file
};

// Opens what `increment` names, whatever its range. Throws bad_input with path and reason for anything that
// cannot be used, and for a kind that there is not.
std::unique_ptr<const Source> open_source(FileSystem& files, const std::string& kind,
                                          const IncrementOptions& increment);

// The path to name in messages: images, or the one file.
std::string main_path(const IncrementOptions& increment);

int64_t bytes_of(Element element);

// The number of elements in a shape.
int64_t elements_of(std::span<const int64_t> shape);

}  // namespace rekindle
