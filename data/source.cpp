// SPDX-License-Identifier: Apache-2.0
#include "data/source.h"

#include <algorithm>
#include <functional>
#include <initializer_list>
#include <numeric>

#include "core/error.h"
#include "core/safetensors.h"
#include "data/idx.h"

namespace rekindle {
namespace {

class IdxSource : public Source {
 public:
  IdxSource(FileSystem& files, const IncrementOptions& increment)
      : pair_(read_idx_pair(files, increment.images, increment.labels)) {}

  int64_t samples() const override { return pair_.images.dimensions[0]; }
  Element element() const override { return Element::kByte; }
  std::vector<int64_t> sample_shape() const override {
    return {1, pair_.images.dimensions[1], pair_.images.dimensions[2]};
  }
  void read_x(int64_t begin, std::span<std::byte> into) const override {
    const int64_t sample_bytes = elements_of(sample_shape());
    std::copy_n(pair_.images.bytes.begin() + begin * sample_bytes, into.size(), into.begin());
  }
  void read_labels(int64_t begin, std::span<int64_t> into) const override {
    for (size_t i = 0; i < into.size(); ++i) {
      into[i] = std::to_integer<int64_t>(pair_.labels.bytes[static_cast<size_t>(begin) + i]);
    }
  }

 private:
  IdxPair pair_;
};

// Reads from the file when asked, so only the range of an increment is ever read.
class SafetensorsSource : public Source {
 public:
  SafetensorsSource(FileSystem& files, const IncrementOptions& increment)
      : path_(increment.path),
        reader_(files, path_),
        x_(tensor("x", {safetensors::DType::kF32, safetensors::DType::kI64})),
        y_(tensor("y", {safetensors::DType::kI64})) {
    if (x_.shape.size() < 2) {
      throw bad_input("tensor x has no dimension of its own for the features", path_,
                      "reshape it to [samples, features], [samples, 1] for a single number");
    }
    if (y_.shape.size() != 1 || y_.shape[0] != x_.shape[0]) {
      throw bad_input("tensor y must hold one class per sample of x", path_,
                      "x is [samples, ...], y is [samples], of equal length");
    }
    if (x_.shape[0] > 0 && x_.elements() == 0) throw bad_input("the samples of tensor x are empty", path_);
  }

  int64_t samples() const override { return x_.shape[0]; }
  Element element() const override {
    return x_.dtype == safetensors::DType::kF32 ? Element::kFloat : Element::kInteger;
  }
  std::vector<int64_t> sample_shape() const override { return {x_.shape.begin() + 1, x_.shape.end()}; }
  void read_x(int64_t begin, std::span<std::byte> into) const override {
    const int64_t sample_bytes = elements_of(sample_shape()) * bytes_of(element());
    reader_.read(x_, static_cast<uint64_t>(begin * sample_bytes), into);
  }
  void read_labels(int64_t begin, std::span<int64_t> into) const override {
    reader_.read(y_, static_cast<uint64_t>(begin) * sizeof(int64_t), std::as_writable_bytes(into));
  }

 private:
  const safetensors::TensorInfo& tensor(const char* name,
                                        std::initializer_list<safetensors::DType> dtypes) const {
    const safetensors::TensorInfo* found = reader_.find(name);
    if (!found) {
      throw bad_input(std::string("there is no tensor named ") + name, path_,
                      "a data set has x in F32 or I64 and y in I64");
    }
    std::string expected;
    for (const safetensors::DType dtype : dtypes) {
      if (found->dtype == dtype) return *found;
      expected += (expected.empty() ? "" : " or ") + std::string(safetensors::name_of(dtype));
    }
    const bool number = *dtypes.begin() == safetensors::DType::kF32;
    throw bad_input(std::string("tensor ") + name + " is " + std::string(safetensors::name_of(found->dtype)) +
                        ", expected " + expected,
                    path_,
                    "convert it, in PyTorch by " + std::string(name) + (number ? ".float()" : ".long()"));
  }

  std::filesystem::path path_;
  safetensors::Reader reader_;
  const safetensors::TensorInfo &x_, &y_;  // of reader_
};

}  // namespace

std::unique_ptr<const Source> open_source(FileSystem& files, const std::string& kind,
                                          const IncrementOptions& increment) {
  if (kind == "idx") return std::make_unique<IdxSource>(files, increment);
  if (kind != "safetensors") {
    throw bad_input("there is no data kind \"" + kind + "\"", "", "kinds: idx, safetensors");
  }
  if (!files.exists(increment.path)) {
    throw bad_input("there is no such file", increment.path, "check the paths under [data]");
  }
  return std::make_unique<SafetensorsSource>(files, increment);
}

std::string main_path(const IncrementOptions& increment) {
  return increment.images.empty() ? increment.path : increment.images;
}

int64_t bytes_of(Element element) {
  switch (element) {
    case Element::kByte:
      return 1;
    case Element::kFloat:
      return sizeof(float);
    case Element::kInteger:
      return sizeof(int64_t);
  }
  throw Error("an element of no known type");
}

int64_t elements_of(std::span<const int64_t> shape) {
  return std::accumulate(shape.begin(), shape.end(), int64_t{1}, std::multiplies<>());
}

}  // namespace rekindle
