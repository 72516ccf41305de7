// SPDX-License-Identifier: Apache-2.0
// The IDX format of the MNIST family (yann.lecun.com/exdb/mnist): two zero bytes, a type, a number of
// dimensions, the dimensions as 32-bit big-endian numbers, then the elements, row by row. It knows no torch.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <vector>

#include "core/file_system.h"

namespace rekindle {

// Unsigned bytes of a file, unpacked.
struct Idx {
  std::vector<int64_t> dimensions;  // the first counts samples
  std::vector<std::byte> bytes;     // their product
};

// Reads a file of unsigned bytes with this many dimensions, plain or gzip (told apart by the first bytes).
// Throws bad_input with path and reason for anything missing, damaged, too short or too long.
Idx read_idx(FileSystem& files, const std::filesystem::path& path, int dimensions);

struct IdxPair {
  Idx images;  // [samples, rows, columns]
  Idx labels;  // [samples]
};

// Throws bad_input also where the two differ in their number of samples, or an image has no pixels.
IdxPair read_idx_pair(FileSystem& files, const std::filesystem::path& images,
                      const std::filesystem::path& labels);

}  // namespace rekindle
