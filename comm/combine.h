// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

namespace rekindle {

// What ranks combine, element by element. bfloat16 and float16 are added in float32 and rounded once, to the
// nearest, ties to even.
enum class Element { kFloat32, kFloat64, kBfloat16, kFloat16, kInt64, kUint8 };
enum class Reduction { kSum, kMax };  // of a maximum: a NaN wins

int64_t size_of(Element element);  // bytes

// Combines `count` elements of each source, always in the order of the sources, so that the bits are the same
// wherever it is done; and writes them to every result while they are in the cache. A result may be one of
// the sources; nothing overlaps otherwise.
void combine(Element element, Reduction reduction, std::span<const std::byte* const> sources,
             std::span<std::byte* const> results, int64_t count);

}  // namespace rekindle
