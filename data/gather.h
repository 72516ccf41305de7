// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <span>

#include "core/batch.h"
#include "data/augment.h"
#include "data/batch_memory.h"
#include "data/dataset.h"

namespace rekindle {

// Copies samples into a batch, in the order given: x is float32 [samples, ...], bytes become (byte / 255 -
// mean) / std and floats stay as they are; so do integers, of which x is int64; y is int64 [samples]. Throws
// Error for an index that the data set does not have, bad_input for a `std` that is not above zero. `memory`
// is for callers that gather again and again. With `augmentation` each image is changed; what a crop brings in
// from outside is a pixel of zero before normalisation, as if bytes had been padded, and 0 where x is floats.
Batch gather(const Dataset& data, std::span<const int64_t> indices, double mean, double std,
             BatchMemory& memory, const Augmentation* augmentation = nullptr);
Batch gather(const Dataset& data, std::span<const int64_t> indices, double mean, double std);

}  // namespace rekindle
