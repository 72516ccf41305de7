// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "core/units.h"

namespace rekindle {

// One arrival of data. Paths are resolved against the job file's folder.
struct IncrementOptions {
  std::filesystem::path images, labels;              // kind "idx", plain or .gz
  std::filesystem::path path;                        // kind "safetensors": tensors x and y
  std::optional<std::pair<int64_t, int64_t>> range;  // only these positions of the file: [begin, end)
};

enum class SplitBy { kKey, kTime };

// How samples are held out. By key: XXH3 of a sample's bytes, so that a sample never changes side when data
// is added and a duplicate never straddles.
struct SplitOptions {
  double validation = 0, test = 0;  // shares of the samples
  SplitBy by = SplitBy::kKey;
};

// Changes to training images, drawn anew for each sample and epoch.
struct AugmentOptions {
  bool crop = false;  // out of the image and a frame of 4 zero pixels, as large as the image
  bool flip = false;  // left and right change places in one of two

  bool any() const { return crop || flip; }
};

struct DataOptions {
  std::string kind = "idx";                  // idx, safetensors
  std::vector<IncrementOptions> increments;  // in order of arrival
  double mean = 0, std = 1;                  // of `normalize`, after scaling bytes to 0..1
  bool shuffle = true;                       // false: file order
  AugmentOptions augment{};
};

// `[batch]`
struct BatchOptions {
  int64_t global = 0;       // samples of one optimizer step over all workers
  int64_t microbatch = 0;   // most samples in one forward pass; 0: a worker's whole share
  int virtual_workers = 8;  // any-world: the fixed cut of the global batch; a power of two, for a tree
  int64_t per_worker = 0;   // `global` is that times the world, once that is known; 0: not given
  int64_t start = 0;        // the global batch at first, which grows
  Length ramp;              // over so long; zero: it does not
};

}  // namespace rekindle
