// SPDX-License-Identifier: Apache-2.0
#include "data/batch_memory.h"

#include <ATen/ops/from_blob.h>

#include <mutex>
#include <utility>
#include <vector>

namespace rekindle {
namespace {

struct alignas(64) Line {  // what kernels expect of a tensor's memory
  float values[16];
};
using Buffer = std::vector<Line>;

}  // namespace

class BatchMemory::Shelf {
 public:
  // The buffer that came back last, which is the likeliest to be in a cache.
  std::shared_ptr<Buffer> take(size_t lines) {
    std::shared_ptr<Buffer> buffer;
    {
      const std::lock_guard lock(mutex_);
      if (!free_.empty()) {
        buffer = std::move(free_.back());
        free_.pop_back();
      }
    }
    return buffer && buffer->size() >= lines ? buffer : std::make_shared<Buffer>(lines);
  }

  void put_back(std::shared_ptr<Buffer> buffer) {
    const std::lock_guard lock(mutex_);
    free_.push_back(std::move(buffer));
  }

 private:
  std::mutex mutex_;
  std::vector<std::shared_ptr<Buffer>> free_;
};

BatchMemory::BatchMemory() : shelf_(std::make_shared<Shelf>()) {}

at::Tensor BatchMemory::floats(at::IntArrayRef sizes) {
  constexpr size_t kPerLine = sizeof(Line) / sizeof(float);
  const auto elements = static_cast<size_t>(c10::multiply_integers(sizes));
  std::shared_ptr<Buffer> buffer =
      shelf_->take(elements / kPerLine + 1);  // never null, for no elements either
  void* const memory = buffer->data();
  auto give_back = [shelf = shelf_, buffer = std::move(buffer)](void*) { shelf->put_back(buffer); };
  return at::from_blob(memory, sizes, std::move(give_back), at::kFloat);
}

}  // namespace rekindle
