// SPDX-License-Identifier: Apache-2.0
#include "worker/evaluation.h"

#include <ATen/core/grad_mode.h>
#include <ATen/ops/cross_entropy_loss.h>
#include <ATen/ops/from_blob.h>
#include <ATen/ops/where.h>

#include <algorithm>

#include "data/gather.h"

namespace rekindle {
namespace {

double mean(const std::vector<double>& values) {
  double sum = 0;
  for (const double value : values) sum += value;
  return values.empty() ? 0 : sum / static_cast<double>(values.size());
}

void add_over_ranks(Communicator& communicator, std::vector<double>& values) {
  const auto count = static_cast<int64_t>(values.size());
  communicator.all_reduce(at::from_blob(values.data(), {count}, at::kDouble), Communicator::Op::kSum,
                          "evaluation");
}

}  // namespace

double Scores::accuracy() const {
  return mean(correct);
}
double Scores::mean_loss() const {
  return mean(loss);
}

Scores evaluate(Communicator& communicator, Model& model, const Dataset& data,
                std::span<const int64_t> indices, const EvaluateOptions& options) {
  const at::NoGradGuard no_gradient;
  model.eval();
  const auto count = static_cast<int64_t>(indices.size());
  Scores scores{std::vector<double>(count, 0.0), std::vector<double>(count, 0.0)};
  const int64_t batches = (count + options.batch - 1) / options.batch;
  const int rank = communicator.rank(), world = communicator.world();
  for (int64_t b = batches * rank / world; b < batches * (rank + 1) / world; ++b) {
    const int64_t begin = b * options.batch, end = std::min(count, begin + options.batch);
    const Batch batch = gather(data, indices.subspan(begin, end - begin), options.mean, options.std)
                            .to(communicator.device());
    const at::Tensor logits = model.forward(batch);
    const at::Tensor labels = at::where(batch.y.lt(logits.size(1)), batch.y, logits.argmin(1));
    const at::Tensor loss =
        at::cross_entropy_loss(logits, labels, {}, at::Reduction::None).to(at::kCPU, at::kDouble);
    const at::Tensor correct = logits.argmax(1).eq(batch.y).to(at::kCPU, at::kDouble);
    std::copy_n(loss.const_data_ptr<double>(), end - begin, scores.loss.begin() + begin);
    std::copy_n(correct.const_data_ptr<double>(), end - begin, scores.correct.begin() + begin);
  }
  // The others' samples are zero here, so the sum is everyone's scores, to the bit.
  add_over_ranks(communicator, scores.correct);
  add_over_ranks(communicator, scores.loss);
  return scores;
}

}  // namespace rekindle
