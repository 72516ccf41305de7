// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "core/batch.h"
#include "core/file_system.h"
#include "data/options.h"
#include "data/source.h"

namespace rekindle {

// One arrival of data, as it lies in a data set: samples [begin, end).
struct Increment {
  std::string path;    // for messages
  std::string digest;  // XXH3-128 of its samples and labels, whatever file they came from, packed or not
  int64_t begin = 0, end = 0;

  int64_t samples() const { return end - begin; }
};

// All increments in memory, in their order of arrival. Immutable once made, so any thread may read it.
class Dataset {
 public:
  // Classes are the sorted distinct labels; where the parent's are given they come first, in the parent's
  // order. Throws bad_input for files that cannot be used, increments that do not fit together, that are
  // there twice or hold nothing, for samples that are not finite, and for samples that are to be augmented
  // and are neither [channels, height, width] nor [height, width].
  Dataset(FileSystem& files, const DataOptions& options, const std::vector<std::string>& parent_classes = {});

  int64_t size() const { return static_cast<int64_t>(labels_.size()); }
  DataShape shape() const { return {sample_shape_, static_cast<int64_t>(classes_.size())}; }
  Element element() const { return element_; }

  const std::vector<Increment>& increments() const { return increments_; }
  const std::vector<std::string>& classes() const { return classes_; }    // names: "0", "1", ...
  const std::vector<std::string>& warnings() const { return warnings_; }  // lines for people

  // One sample; 0 <= index < size(), else throws Error.
  std::span<const std::byte> sample(int64_t index) const;  // its elements, in memory order
  int64_t label(int64_t index) const;                      // the index of its class

 private:
  void read(Increment& increment, const Source& source, int64_t file_begin);
  void name_classes(const std::vector<std::string>& parent_classes);
  void check(int64_t index) const;

  Element element_ = Element::kByte;
  std::vector<int64_t> sample_shape_;
  int64_t sample_bytes_ = 0;
  std::unique_ptr<std::byte[]> x_;
  std::vector<int64_t> labels_;
  std::vector<Increment> increments_;
  std::vector<std::string> classes_, warnings_;
};

}  // namespace rekindle
