// SPDX-License-Identifier: Apache-2.0
#include "data/dataset.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <map>
#include <set>

#include "core/digest.h"
#include "core/error.h"
#include "core/text.h"

namespace rekindle {
namespace {

static_assert(std::endian::native == std::endian::little,
              "samples and labels are digested as they lie in memory");

using SharedSource = std::shared_ptr<const Source>;

constexpr size_t kMostNamed = 10;  // classes in one warning

std::string name_of(const std::vector<Increment>& increments, size_t index) {
  return "increment " + std::to_string(index + 1) + " (" + increments[index].path + ")";
}

std::string name_of(Element element) {
  return element == Element::kByte ? "U8" : element == Element::kFloat ? "F32" : "I64";
}

std::string text_of(std::span<const int64_t> shape) {
  std::string text;
  for (const int64_t size : shape) text += (text.empty() ? "" : ", ") + std::to_string(size);
  return "[" + text + "]";
}

// One for each increment. A file that several increments take ranges of is opened, and unpacked, once.
std::vector<SharedSource> open_sources(FileSystem& files, const DataOptions& options) {
  if (options.increments.empty())
    throw bad_input("there is no increment of data", "", "list one under data.increments");
  std::map<std::vector<std::filesystem::path>, SharedSource> opened;
  std::vector<SharedSource> sources;
  for (const IncrementOptions& increment : options.increments) {
    std::vector<std::filesystem::path> key;
    for (const auto& path : {increment.images, increment.labels, increment.path})
      key.push_back(path.lexically_normal());
    SharedSource& source = opened[key];
    if (!source) source = open_source(files, options.kind, increment);
    sources.push_back(source);
  }
  return sources;
}

std::pair<int64_t, int64_t> range_of(const IncrementOptions& options, const Source& source) {
  const int64_t count = source.samples();
  const auto [begin, end] = options.range.value_or(std::pair<int64_t, int64_t>(0, count));
  if (begin < 0 || begin > end || end > count) {
    throw bad_input("range [" + std::to_string(begin) + ", " + std::to_string(end) +
                        ") does not lie in the " + std::to_string(count) + " samples of this file",
                    main_path(options), "a range is [first, one past the last], counted from 0");
  }
  if (begin == end) throw bad_input("this increment holds no samples", main_path(options));
  return {begin, end};
}

void check_alike(const Source& first, const Source& other, const IncrementOptions& options) {
  if (first.element() == other.element() && first.sample_shape() == other.sample_shape()) return;
  const auto describe = [](const Source& source) {
    return text_of(source.sample_shape()) + " in " + name_of(source.element());
  };
  throw bad_input(
      "samples of shape " + describe(other) + ", but " + describe(first) + " in the first increment",
      main_path(options), "all increments of a data set hold samples of one shape and type");
}

void check_changeable(const AugmentOptions& augment, Element element, std::span<const int64_t> sample_shape) {
  const bool images = element != Element::kInteger && (sample_shape.size() == 2 || sample_shape.size() == 3);
  if (!augment.any() || images) return;
  throw bad_input("samples of shape " + text_of(sample_shape) + " are no images that could be changed",
                  "data.augment", "leave data.augment out, or give x as [samples, channels, height, width]");
}

void check_finite(std::span<const std::byte> x, int64_t sample_bytes, int64_t file_begin,
                  const std::string& path) {
  for (size_t offset = 0; offset < x.size(); offset += sizeof(float)) {
    float value;
    std::memcpy(&value, &x[offset], sizeof(value));
    if (std::isfinite(value)) continue;
    const int64_t sample = file_begin + static_cast<int64_t>(offset) / sample_bytes;
    throw bad_input("sample " + std::to_string(sample) + " (counted from 0) holds " + std::to_string(value),
                    path, "remove it or repair it: one such number would spoil all weights");
  }
}

void check_duplicates(const std::vector<Increment>& increments) {
  std::map<std::string, size_t> seen;
  for (size_t i = 0; i < increments.size(); ++i) {
    const auto [earlier, fresh] = seen.emplace(increments[i].digest, i);
    if (fresh) continue;
    throw bad_input(
        name_of(increments, i) + " holds the same samples as " + name_of(increments, earlier->second), "",
        "remove one of the two from data.increments");
  }
}

std::string quoted_list(const std::vector<std::string>& names) {
  std::vector<std::string> shown;
  for (size_t i = 0; i < std::min(names.size(), kMostNamed); ++i) shown.push_back('"' + names[i] + '"');
  if (names.size() > kMostNamed) shown.push_back(std::to_string(names.size() - kMostNamed) + " more");
  return enumerate(shown);
}

}  // namespace

Dataset::Dataset(FileSystem& files, const DataOptions& options,
                 const std::vector<std::string>& parent_classes) {
  const std::vector<SharedSource> sources = open_sources(files, options);
  element_ = sources[0]->element();
  sample_shape_ = sources[0]->sample_shape();
  check_changeable(options.augment, element_, sample_shape_);
  sample_bytes_ = elements_of(sample_shape_) * bytes_of(element_);
  std::vector<int64_t> file_begins;
  int64_t size = 0;
  for (size_t i = 0; i < sources.size(); ++i) {
    const auto [begin, end] = range_of(options.increments[i], *sources[i]);
    check_alike(*sources[0], *sources[i], options.increments[i]);
    increments_.push_back({main_path(options.increments[i]), "", size, size + end - begin});
    file_begins.push_back(begin);
    size += end - begin;
  }
  x_ = std::make_unique_for_overwrite<std::byte[]>(static_cast<size_t>(size * sample_bytes_));
  labels_.resize(static_cast<size_t>(size));
  for (size_t i = 0; i < sources.size(); ++i) read(increments_[i], *sources[i], file_begins[i]);
  check_duplicates(increments_);
  name_classes(parent_classes);
  if (element_ != Element::kByte && (options.mean != 0 || options.std != 1)) {
    warnings_.push_back("data.normalize is not applied: it is for bytes, and x in " + name_of(element_) +
                        " is used as it is");
  }
}

void Dataset::read(Increment& increment, const Source& source, int64_t file_begin) {
  const auto x_begin = x_.get() + increment.begin * sample_bytes_;
  const std::span<std::byte> x(x_begin, static_cast<size_t>(increment.samples() * sample_bytes_));
  const auto labels = std::span(labels_).subspan(static_cast<size_t>(increment.begin),
                                                 static_cast<size_t>(increment.samples()));
  source.read_x(file_begin, x);
  source.read_labels(file_begin, labels);
  if (element_ == Element::kFloat) check_finite(x, sample_bytes_, file_begin, increment.path);
  // Shape and type go in as well: the same bytes may be other samples.
  Digest digest;
  digest.update(name_of(element_) + " " + text_of(sample_shape_) + " x " +
                std::to_string(increment.samples()) + "\n");
  increment.digest = digest.update(x).update(std::as_bytes(labels)).hex();
}

// Until here labels are those of the files; from here on they are indices of classes.
void Dataset::name_classes(const std::vector<std::string>& parent_classes) {
  std::vector<std::set<int64_t>> held;  // by each increment
  std::set<int64_t> all;
  for (const Increment& increment : increments_) {
    const auto begin = labels_.begin() + increment.begin;
    held.emplace_back(begin, begin + increment.samples());
    all.merge(std::set(held.back()));
  }
  classes_ = parent_classes;
  std::map<std::string, int64_t> index_of_name;
  for (size_t i = 0; i < classes_.size(); ++i) index_of_name.emplace(classes_[i], static_cast<int64_t>(i));
  std::map<int64_t, int64_t> index_of_label;
  for (const int64_t label : all) {
    const auto [named, fresh] =
        index_of_name.emplace(std::to_string(label), static_cast<int64_t>(classes_.size()));
    if (fresh) classes_.push_back(named->first);
    index_of_label.emplace(label, named->second);
  }
  for (int64_t& label : labels_) label = index_of_label.at(label);

  for (size_t i = 0; i < held.size(); ++i) {
    std::set<std::string> names;
    for (const int64_t label : held[i]) names.insert(std::to_string(label));
    std::vector<std::string> missing;
    for (const std::string& name : classes_) {
      if (!names.contains(name)) missing.push_back(name);
    }
    if (missing.empty()) continue;
    warnings_.push_back(name_of(increments_, i) + " has no sample of class " + quoted_list(missing) +
                        "; the classes and their order stay");
  }
}

std::span<const std::byte> Dataset::sample(int64_t index) const {
  check(index);
  return {x_.get() + index * sample_bytes_, static_cast<size_t>(sample_bytes_)};
}

int64_t Dataset::label(int64_t index) const {
  check(index);
  return labels_[static_cast<size_t>(index)];
}

void Dataset::check(int64_t index) const {
  if (index >= 0 && index < size()) return;
  throw Error("sample " + std::to_string(index) + " of a data set of " + std::to_string(size()));
}

}  // namespace rekindle
