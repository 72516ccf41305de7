// SPDX-License-Identifier: Apache-2.0
#include "data/augment.h"

#include "core/digest.h"

namespace rekindle {
namespace {

// "augment": keeps these keys apart from those of other random streams.
constexpr uint64_t kStream = 0x6175676d656e74;
constexpr int kDrawBits = 31;

// Of 31 random bits, even to one part in 2^27.
int64_t shift_from(uint64_t bits) {
  constexpr uint64_t kMask = (uint64_t{1} << kDrawBits) - 1;
  constexpr uint64_t kPlaces = 2 * Augmentation::kCropPadding + 1;
  return static_cast<int64_t>((bits & kMask) * kPlaces >> kDrawBits) - Augmentation::kCropPadding;
}

}  // namespace

Augmentation::Augmentation(const AugmentOptions& options, uint64_t seed, int64_t epoch)
    : options_(options), seed_(seed), epoch_(static_cast<uint64_t>(epoch)) {}

Augmentation::Change Augmentation::of(int64_t sample) const {
  const uint64_t bits = hash64({kStream, seed_, epoch_, static_cast<uint64_t>(sample)});
  Change change;
  if (options_.crop) {
    change.down = shift_from(bits);
    change.right = shift_from(bits >> kDrawBits);
  }
  change.mirrored = options_.flip && bits >> 63 != 0;
  return change;
}

}  // namespace rekindle
