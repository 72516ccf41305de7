// SPDX-License-Identifier: Apache-2.0
#include "comm/sum.h"

#include <algorithm>
#include <cstring>
#include <vector>

#include "core/widest.h"

namespace rekindle {
namespace {

// Small enough that the partial sums stay in the first-level cache.
constexpr int64_t kChunk = 2048;

REKINDLE_WIDEST void add_f32(float* out, const float* a, const float* b, int64_t n) {
#pragma GCC ivdep
  for (int64_t i = 0; i < n; ++i) out[i] = a[i] + b[i];
}
REKINDLE_WIDEST void add_f64(double* out, const double* a, const double* b, int64_t n) {
#pragma GCC ivdep
  for (int64_t i = 0; i < n; ++i) out[i] = a[i] + b[i];
}
void add(float* out, const float* a, const float* b, int64_t n) {
  add_f32(out, a, b, n);
}
void add(double* out, const double* a, const double* b, int64_t n) {
  add_f64(out, a, b, n);
}

template <typename T>
void sum_chunks(T* out, std::span<const T* const> sources, int64_t count) {
  if (sources.size() == 1) {
    if (out != sources[0]) std::memmove(out, sources[0], static_cast<size_t>(count) * sizeof(T));
    return;
  }
  if (sources.size() == 2) return add(out, sources[0], sources[1], count);
  T partial[kChunk];  // `out` may be a later source, so it is written only when all were read
  for (int64_t at = 0; at < count; at += kChunk) {
    const int64_t n = std::min(kChunk, count - at);
    add(partial, sources[0] + at, sources[1] + at, n);
    for (size_t s = 2; s + 1 < sources.size(); ++s) add(partial, partial, sources[s] + at, n);
    add(out + at, partial, sources.back() + at, n);
  }
}

template <typename T>
void sum_in_order(T* out, std::span<const T* const> sources, const SumOrder& order, int64_t count) {
  if (sources.size() <= 2) return sum_chunks(out, sources, count);  // there is but one order
  // The stack of operands: a source, or a partial sum in this memory, one place a level.
  constexpr int64_t kPiece = 1024;
  thread_local std::vector<T> memory;
  memory.resize(std::max(memory.size(), order.size() * static_cast<size_t>(kPiece)));
  std::vector<const T*> stack;
  for (int64_t at = 0; at < count; at += kPiece) {
    const int64_t n = std::min(kPiece, count - at);
    for (const int step : order) {
      if (step != kAdd) {
        stack.push_back(sources[step] + at);
        continue;
      }
      const T* right = stack.back();
      stack.pop_back();
      T* result = memory.data() + static_cast<int64_t>(stack.size() - 1) * kPiece;
      add(result, stack.back(), right, n);
      stack.back() = result;
    }
    std::memcpy(out + at, stack.back(), static_cast<size_t>(n) * sizeof(T));
    stack.clear();
  }
}

}  // namespace

void sum(float* out, std::span<const float* const> sources, int64_t count) {
  sum_chunks(out, sources, count);
}

void sum(float* out, std::span<const float* const> sources, const SumOrder& order, int64_t count) {
  sum_in_order(out, sources, order, count);
}
void sum(double* out, std::span<const double* const> sources, const SumOrder& order, int64_t count) {
  sum_in_order(out, sources, order, count);
}

}  // namespace rekindle
