// SPDX-License-Identifier: Apache-2.0
#include "core/digest.h"

#if defined(__x86_64__) && __has_include(<xxh_x86dispatch.h>)
// The library picks AVX2 or AVX-512 where the processor has them: twice as fast as what every x86 can do.
#define XXH_STATIC_LINKING_ONLY
#include <xxh_x86dispatch.h>
#else
#define XXH_STATIC_LINKING_ONLY
#include <xxhash.h>
#endif

#include <cstdio>

namespace rekindle {

struct Digest::State {
  XXH3_state_t xxh3;
};

Digest::Digest() : state_(std::make_unique<State>()) {
  XXH3_128bits_reset(&state_->xxh3);
}
Digest::~Digest() = default;

Digest& Digest::update(std::span<const std::byte> bytes) {
  if (!bytes.empty()) XXH3_128bits_update(&state_->xxh3, bytes.data(), bytes.size());
  return *this;
}

Digest& Digest::update(std::string_view text) {
  return update(std::as_bytes(std::span(text)));
}

std::string Digest::hex() const {
  const XXH128_hash_t hash = XXH3_128bits_digest(&state_->xxh3);
  char text[33];
  std::snprintf(text, sizeof text, "%016llx%016llx", static_cast<unsigned long long>(hash.high64),
                static_cast<unsigned long long>(hash.low64));
  return text;
}

std::string digest_of(std::string_view text) {
  return Digest().update(text).hex();
}

uint64_t hash64(std::span<const std::byte> bytes, uint64_t seed) {
  return XXH3_64bits_withSeed(bytes.data(), bytes.size(), seed);
}

uint64_t hash64(std::initializer_list<uint64_t> numbers) {
  return hash64(std::as_bytes(std::span(numbers.begin(), numbers.size())));
}

}  // namespace rekindle
