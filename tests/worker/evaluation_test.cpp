// SPDX-License-Identifier: Apache-2.0
#include "worker/evaluation.h"

#include <ATen/ops/zeros.h>
#include <gtest/gtest.h>

#include <atomic>
#include <cstring>

#include "comm/thread_communicator.h"
#include "core/safetensors.h"
#include "data/dataset.h"
#include "tests/support/temp_directory.h"

namespace rekindle {
namespace {

// Says class 0 for a negative first feature, else class 1; counts what it was given.
class Sign : public Model {
 public:
  at::Tensor forward(const Batch& batch) override {
    seen += batch.samples();
    at::Tensor logits = at::zeros({batch.samples(), 2}, at::kFloat);
    for (int64_t i = 0; i < batch.samples(); ++i) {
      const float x = batch.x.data_ptr<float>()[i * 2];
      logits.data_ptr<float>()[2 * i + (x < 0 ? 0 : 1)] = 3;
    }
    return logits;
  }
  std::atomic<int64_t> seen{0};
};

TEST(Evaluate, EverySampleOnceAndTheSameOnAnyWorld) {
  TempDirectory directory;
  const int64_t n = 103;
  std::vector<float> x(n * 2);
  std::vector<int64_t> y(n);
  for (int64_t i = 0; i < n; ++i) {
    x[2 * i] = i % 3 == 0 ? -1.f : 1.f;
    x[2 * i + 1] = static_cast<float>(i);
    y[i] = i % 2;
  }
  const auto path = directory.path() / "data.safetensors";
  const auto bytes = [](const auto& values) { return std::as_bytes(std::span(values)); };
  safetensors::write(
      posix_file_system(), path,
      {{"x", safetensors::DType::kF32, {n, 2}, bytes(x)}, {"y", safetensors::DType::kI64, {n}, bytes(y)}});
  DataOptions options;
  options.kind = "safetensors";
  options.increments.push_back({{}, {}, path, {}});
  const Dataset data(posix_file_system(), options);
  std::vector<int64_t> indices;
  for (int64_t i = n - 1; i >= 0; --i) indices.push_back(i);

  for (const int world : {1, 2, 3, 5}) {
    Sign model;
    run_as_threads(world, {}, [&](Communicator& communicator) {
      const Scores scores = evaluate(communicator, model, data, indices, {10, 0, 1});
      ASSERT_EQ(scores.samples(), n);
      int64_t right = 0;
      for (int64_t k = 0; k < n; ++k) {
        const int64_t i = indices[k];
        const bool correct = (i % 3 == 0 ? 0 : 1) == i % 2;
        EXPECT_EQ(scores.correct[k], correct) << k;
        EXPECT_NEAR(scores.loss[k], correct ? 0.04858735 : 3.04858735, 1e-5);
        right += correct;
      }
      EXPECT_DOUBLE_EQ(scores.accuracy(), static_cast<double>(right) / n);
    });
    EXPECT_EQ(model.seen, n) << world;
  }
}

}  // namespace
}  // namespace rekindle
