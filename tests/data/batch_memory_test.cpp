// SPDX-License-Identifier: Apache-2.0
#include "data/batch_memory.h"

#include <gtest/gtest.h>

#include <cstdint>
#include <optional>
#include <vector>

namespace rekindle {
namespace {

TEST(BatchMemoryTest, IsUsedAgainOnceNobodyHoldsIt) {
  BatchMemory memory;
  at::Tensor first = memory.floats({10, 20});
  EXPECT_EQ(first.sizes(), (std::vector<int64_t>{10, 20}));
  EXPECT_EQ(first.scalar_type(), at::kFloat);
  EXPECT_EQ(reinterpret_cast<uintptr_t>(first.data_ptr()) % 64, 0u);
  const void* address = first.data_ptr();
  const at::Tensor second = memory.floats({10, 20});
  EXPECT_NE(second.data_ptr(), address);
  at::Tensor part = first.select(0, 3);
  first.reset();
  EXPECT_NE(memory.floats({10, 20}).data_ptr(), address);  // a view holds it still
  part.reset();
  EXPECT_EQ(memory.floats({5, 8}).data_ptr(), address);  // a smaller one fits as well
}

TEST(BatchMemoryTest, IsNeverTooSmall) {
  BatchMemory memory;
  for (int64_t size = 0; size < 3000; size += 7) {
    memory.floats({size}).fill_(1);
    EXPECT_EQ(memory.floats({size, 2}).fill_(2).numel(), 2 * size);
  }
}

TEST(BatchMemoryTest, TensorsMayOutliveIt) {
  std::optional<BatchMemory> memory(std::in_place);
  at::Tensor tensor = memory->floats({1000}).fill_(3);
  memory.reset();
  EXPECT_EQ(tensor.const_data_ptr<float>()[999], 3);
}

}  // namespace
}  // namespace rekindle
