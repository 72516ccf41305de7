// SPDX-License-Identifier: Apache-2.0
// Part of the public interface: an own model includes it through <rekindle/model.h>.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <functional>
#include <numeric>
#include <vector>

namespace rekindle {

// Samples for one forward pass.
struct Batch {
  at::Tensor x;  // [samples, ...], float32 unless the data set says otherwise
  at::Tensor y;  // [samples], int64: indices of classes

  int64_t samples() const { return y.defined() ? y.size(0) : 0; }
  Batch to(at::Device device) const { return {x.to(device), y.to(device)}; }
};

// What a model must know of the data to be built.
class DataShape {
 public:
  DataShape(std::vector<int64_t> sample, int64_t classes) : sample_(std::move(sample)), classes_(classes) {}

  const std::vector<int64_t>& sample() const {
    return sample_;
  }  // one sample's, [channels, height, width] for images
  int64_t classes() const { return classes_; }
  int64_t features() const {  // numbers in one sample
    return std::accumulate(sample_.begin(), sample_.end(), int64_t{1}, std::multiplies<>());
  }

 private:
  std::vector<int64_t> sample_;
  int64_t classes_;
};

}  // namespace rekindle
