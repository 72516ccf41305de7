// SPDX-License-Identifier: Apache-2.0
// Small data sets on disk, made by the tests themselves.
#pragma once

#include <zlib.h>

#include <cstdint>
#include <filesystem>
#include <fstream>
#include <span>
#include <string>
#include <vector>

#include "core/safetensors.h"

namespace rekindle {

inline void write_bytes(const std::filesystem::path& path, const std::string& bytes) {
  std::ofstream(path, std::ios::binary) << bytes;
}

inline std::string gzip(const std::string& bytes) {
  z_stream zlib{};
  deflateInit2(&zlib, 6, Z_DEFLATED, 16 + MAX_WBITS, 8, Z_DEFAULT_STRATEGY);
  std::string packed(deflateBound(&zlib, bytes.size()), '\0');
  zlib.next_in = reinterpret_cast<Bytef*>(const_cast<char*>(bytes.data()));
  zlib.avail_in = static_cast<uInt>(bytes.size());
  zlib.next_out = reinterpret_cast<Bytef*>(packed.data());
  zlib.avail_out = static_cast<uInt>(packed.size());
  deflate(&zlib, Z_FINISH);
  packed.resize(zlib.total_out);
  deflateEnd(&zlib);
  return packed;
}

// The bytes of an IDX file of unsigned bytes.
inline std::string idx(const std::vector<uint32_t>& dimensions, const std::string& elements) {
  std::string bytes{'\0', '\0', '\x08', static_cast<char>(dimensions.size())};
  for (const uint32_t dimension : dimensions) {
    for (int shift = 24; shift >= 0; shift -= 8) bytes += static_cast<char>(dimension >> shift);
  }
  return bytes + elements;
}

// Pixels that differ from sample to sample: the sample's number, in base 251, then noise.
inline std::string pixels(int64_t samples, int64_t sample_bytes) {
  std::string bytes;
  uint32_t noise = 1;
  for (int64_t sample = 0; sample < samples; ++sample) {
    for (int64_t i = 0, number = sample; i < sample_bytes; ++i, number /= 251) {
      noise = noise * 1664525 + 1013904223;
      bytes += static_cast<char>(i < 3 ? number % 251 : noise >> 24);
    }
  }
  return bytes;
}

// The number that pixels() wrote into a sample.
inline int64_t number_of(std::span<const std::byte> sample) {
  return std::to_integer<int64_t>(sample[0]) + 251 * std::to_integer<int64_t>(sample[1]) +
         251 * 251 * std::to_integer<int64_t>(sample[2]);
}

// Labels that run through `classes` numbers.
inline std::string labels(int64_t samples, int classes) {
  std::string bytes;
  for (int64_t i = 0; i < samples; ++i) bytes += static_cast<char>(i % classes);
  return bytes;
}

template <typename T>
safetensors::TensorView view(const std::string& name, safetensors::DType dtype, std::vector<int64_t> shape,
                             const std::vector<T>& values) {
  return {name, dtype, std::move(shape), std::as_bytes(std::span(values))};
}

inline void write_safetensors(const std::filesystem::path& path, const std::vector<int64_t>& shape,
                              const std::vector<float>& x, const std::vector<int64_t>& y) {
  safetensors::write(posix_file_system(), path,
                     {view("x", safetensors::DType::kF32, shape, x),
                      view("y", safetensors::DType::kI64, {static_cast<int64_t>(y.size())}, y)});
}

}  // namespace rekindle
