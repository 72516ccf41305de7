// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>

namespace rekindle {

// XXH3, 128 bits, over a stream of bytes. Names content; it is no defence against an adversary.
class Digest {
 public:
  Digest();
  ~Digest();
  Digest(const Digest&) = delete;
  Digest& operator=(const Digest&) = delete;

  Digest& update(std::span<const std::byte> bytes);
  Digest& update(std::string_view text);
  std::string hex() const;  // 32 lower-case digits of all that was given so far

 private:
  struct State;
  std::unique_ptr<State> state_;
};

std::string digest_of(std::string_view text);

// XXH3, 64 bits: a well-mixed number from bytes, and from a few numbers (keys of random streams).
uint64_t hash64(std::span<const std::byte> bytes, uint64_t seed = 0);
uint64_t hash64(std::initializer_list<uint64_t> numbers);

}  // namespace rekindle
