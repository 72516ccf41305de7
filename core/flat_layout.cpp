// SPDX-License-Identifier: Apache-2.0
#include "core/flat_layout.h"

#include <algorithm>
#include <functional>
#include <numeric>

#include "core/error.h"

namespace rekindle {
namespace {

int64_t round_up(int64_t n, int64_t unit) {
  return (n + unit - 1) / unit * unit;
}

}  // namespace

Range Range::intersect(Range other) const {
  const Range both{std::max(begin, other.begin), std::min(end, other.end)};
  return both.empty() ? Range{} : both;
}

void FlatLayout::append(std::string name, std::vector<int64_t> shape) {
  const auto same = [&](const Entry& entry) { return entry.name == name; };
  if (std::any_of(entries_.begin(), entries_.end(), same))
    throw Error("two parameters are named '" + name + "'");
  const int64_t count = std::accumulate(shape.begin(), shape.end(), int64_t{1}, std::multiplies<>());
  entries_.push_back({std::move(name), std::move(shape), {size_, size_ + count}});
  size_ += round_up(count, kBlock);
}

int64_t FlatLayout::elements() const {
  int64_t sum = 0;
  for (const Entry& entry : entries_) sum += entry.range.size();
  return sum;
}

std::string FlatLayout::text() const {
  std::string text;
  for (const Entry& entry : entries_) {
    text += entry.name;
    for (const int64_t size : entry.shape) text += " " + std::to_string(size);
    text += "\n";
  }
  return text;
}

Range FlatLayout::slice(Range whole, int rank, int world, int64_t unit) {
  const int64_t units = whole.size() / unit;
  const auto cut = [&](int64_t r) { return whole.begin + units * r / world * unit; };
  return {cut(rank), cut(rank + 1)};
}

std::vector<Range> FlatLayout::buckets(int64_t first_bytes, int64_t bytes, int64_t element_size) const {
  std::vector<Range> buckets;
  int64_t end = size_;
  for (auto entry = entries_.rbegin(); entry != entries_.rend(); ++entry) {
    const int64_t limit = (buckets.empty() ? first_bytes : bytes) / element_size;
    const auto next = std::next(entry);
    const bool last = next == entries_.rend();
    if (last || end - next->range.begin > limit) {
      if (end > entry->range.begin) buckets.push_back({entry->range.begin, end});
      end = entry->range.begin;
    }
  }
  return buckets;
}

}  // namespace rekindle
