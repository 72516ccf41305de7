// SPDX-License-Identifier: Apache-2.0
#include "comm/combine.h"

#include <algorithm>
#include <bit>
#include <cstring>

#include "core/widest.h"

namespace rekindle {
namespace {

constexpr int64_t kChunk = 2048;  // elements: what is combined stays in the first-level cache

// float16 by arithmetic that compilers vectorise. The product with 2^112 moves the exponent to float32's
// place, subnormals included; what was infinity or NaN gets all bits of the exponent.
float widen_half(uint16_t half) {
  const uint32_t magnitude = static_cast<uint32_t>(half & 0x7fff) << 13;
  const auto moved = std::bit_cast<uint32_t>(std::bit_cast<float>(magnitude) * 0x1p112f);
  const uint32_t bits = magnitude >= 0x0f800000 ? magnitude | 0x7f800000 : moved;
  return std::bit_cast<float>(bits | static_cast<uint32_t>(half & 0x8000) << 16);
}

uint16_t narrow_half(float value) {
  const auto bits = std::bit_cast<uint32_t>(value);
  const uint32_t magnitude = bits & 0x7fffffff, sign = bits >> 16 & 0x8000;
  // A normal result: the exponent moves, and half of the last place less one, or half where that place is
  // odd, rounds. A subnormal one: adding 0.5 shifts it to where float32 itself rounds at the right place.
  const uint32_t normal = (magnitude - 0x38000000 + 0xfff + (magnitude >> 13 & 1)) >> 13;
  const uint32_t small = std::bit_cast<uint32_t>(std::bit_cast<float>(magnitude) + 0.5f) - 0x3f000000;
  const uint32_t large = magnitude > 0x7f800000 ? 0x7e00 : 0x7c00;
  const uint32_t result = magnitude >= 0x477ff000 ? large : magnitude < 0x38800000 ? small : normal;
  return static_cast<uint16_t>(result | sign);
}

float widen_bfloat(uint16_t bfloat) {
  return std::bit_cast<float>(static_cast<uint32_t>(bfloat) << 16);
}

uint16_t narrow_bfloat(float value) {
  const auto bits = std::bit_cast<uint32_t>(value);
  const uint32_t rounded = (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
  return static_cast<uint16_t>((bits & 0x7fffffff) > 0x7f800000 ? (bits >> 16 | 0x40) : rounded);
}

struct Add {
  template <typename T>
  static T of(T a, T b) {
    return static_cast<T>(a + b);
  }
};
struct Most {
  template <typename T>
  static T of(T a, T b) {
    return b > a || b != b ? b : a;
  }
};

// `out` may be `a` or `b`.
template <typename Of, typename T>
inline void loop(T* out, const T* a, const T* b, int64_t n) {
#pragma GCC ivdep
  for (int64_t i = 0; i < n; ++i) out[i] = Of::of(a[i], b[i]);
}
template <typename Of, typename T>
inline void loop_to_both(T* one, T* other, const T* a, const T* b, int64_t n) {
#pragma GCC ivdep
  for (int64_t i = 0; i < n; ++i) one[i] = other[i] = Of::of(a[i], b[i]);
}

// The hot ones, which the loader picks, are no templates: clones of these are not to be had.
REKINDLE_WIDEST void add(float* out, const float* a, const float* b, int64_t n) {
  loop<Add>(out, a, b, n);
}
REKINDLE_WIDEST void add_to_both(float* one, float* other, const float* a, const float* b, int64_t n) {
  loop_to_both<Add>(one, other, a, b, n);
}
REKINDLE_WIDEST void widen(float* out, const uint16_t* in, bool half, int64_t n) {
  if (half) {
    for (int64_t i = 0; i < n; ++i) out[i] = widen_half(in[i]);
  } else {
    for (int64_t i = 0; i < n; ++i) out[i] = widen_bfloat(in[i]);
  }
}
REKINDLE_WIDEST void narrow(uint16_t* out, const float* in, bool half, int64_t n) {
  if (half) {
    for (int64_t i = 0; i < n; ++i) out[i] = narrow_half(in[i]);
  } else {
    for (int64_t i = 0; i < n; ++i) out[i] = narrow_bfloat(in[i]);
  }
}

template <typename Of, typename T>
void combine_two(T* out, const T* a, const T* b, int64_t n) {
  if constexpr (std::is_same_v<T, float> && std::is_same_v<Of, Add>) {
    add(out, a, b, n);
  } else {
    loop<Of>(out, a, b, n);
  }
}

using Sources = std::span<const std::byte* const>;
using Results = std::span<std::byte* const>;

template <typename T>
const T* from(const std::byte* memory, int64_t at) {
  return reinterpret_cast<const T*>(memory) + at;
}
template <typename T>
T* from(std::byte* memory, int64_t at) {
  return reinterpret_cast<T*>(memory) + at;
}

template <typename T>
void put(const T* values, Results results, int64_t at, int64_t n) {
  for (std::byte* result : results)
    std::memcpy(from<T>(result, at), values, static_cast<size_t>(n) * sizeof(T));
}

template <typename Of, typename T>
void combine_as(Sources sources, Results results, int64_t count) {
  if (count == 0) return;  // what is empty may be nowhere, where memmove must not go
  if (sources.size() == 1) {
    for (std::byte* result : results) {
      if (result != sources[0]) std::memmove(result, sources[0], static_cast<size_t>(count) * sizeof(T));
    }
    return;
  }
  alignas(64) T value[kChunk];  // a result may be a later source, so it is written only when all were read
  for (int64_t at = 0; at < count; at += kChunk) {
    const int64_t n = std::min(kChunk, count - at);
    combine_two<Of>(value, from<T>(sources[0], at), from<T>(sources[1], at), n);
    for (size_t s = 2; s < sources.size(); ++s) combine_two<Of>(value, value, from<T>(sources[s], at), n);
    put(value, results, at, n);
  }
}

template <typename Of>
void combine_16_bits(Sources sources, Results results, int64_t count, bool half) {
  alignas(64) float value[kChunk], next[kChunk];
  alignas(64) uint16_t rounded[kChunk];
  for (int64_t at = 0; at < count; at += kChunk) {
    const int64_t n = std::min(kChunk, count - at);
    widen(value, from<uint16_t>(sources[0], at), half, n);
    for (size_t s = 1; s < sources.size(); ++s) {
      widen(next, from<uint16_t>(sources[s], at), half, n);
      combine_two<Of>(value, value, next, n);
    }
    narrow(rounded, value, half, n);
    put(rounded, results, at, n);
  }
}

template <typename Of>
void combine_by(Element element, Sources sources, Results results, int64_t count) {
  switch (element) {
    case Element::kFloat32:
      return combine_as<Of, float>(sources, results, count);
    case Element::kFloat64:
      return combine_as<Of, double>(sources, results, count);
    case Element::kBfloat16:
    case Element::kFloat16:
      return combine_16_bits<Of>(sources, results, count, element == Element::kFloat16);
    case Element::kInt64:
      return combine_as<Of, int64_t>(sources, results, count);
    case Element::kUint8:
      return combine_as<Of, uint8_t>(sources, results, count);
  }
}

}  // namespace

int64_t size_of(Element element) {
  switch (element) {
    case Element::kFloat64:
    case Element::kInt64:
      return 8;
    case Element::kBfloat16:
    case Element::kFloat16:
      return 2;
    case Element::kUint8:
      return 1;
    case Element::kFloat32:
      break;
  }
  return 4;
}

void combine(Element element, Reduction reduction, Sources sources, Results results, int64_t count) {
  if (reduction == Reduction::kMax) return combine_by<Most>(element, sources, results, count);
  if (element == Element::kFloat32 && sources.size() == 2 && results.size() == 2) {
    return add_to_both(from<float>(results[0], 0), from<float>(results[1], 0), from<float>(sources[0], 0),
                       from<float>(sources[1], 0), count);  // the common case, in one pass
  }
  combine_by<Add>(element, sources, results, count);
}

}  // namespace rekindle
