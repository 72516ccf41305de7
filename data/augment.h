// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include "data/options.h"

namespace rekindle {

// How the images of one epoch are changed for training: the usual recipe of the CIFAR data sets (He et al.
// 2015, section 4.2). What becomes of an image is a pure function of seed, epoch and the sample's index,
// whoever asks and in whatever order, so any number of workers, a resumed one too, sees the same pixels.
class Augmentation {
 public:
  static constexpr int64_t kCropPadding = 4;

  // Of one image; first it is cropped, then it is flipped.
  struct Change {
    int64_t down = 0, right = 0;  // -kCropPadding..kCropPadding: [y, x] is what was at [y + down, x + right]
    bool mirrored = false;        // left and right change places

    bool operator==(const Change&) const = default;
  };

  Augmentation(const AugmentOptions& options, uint64_t seed, int64_t epoch);

  Change of(int64_t sample) const;

 private:
  AugmentOptions options_;
  uint64_t seed_, epoch_;
};

}  // namespace rekindle
