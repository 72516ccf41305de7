// SPDX-License-Identifier: Apache-2.0
#include "worker/preflight.h"

#include <gmock/gmock.h>

#include "core/error.h"
#include "worker/model_card.h"
#include "worker/running_statistics.h"

#include "comm/thread_communicator.h"

namespace rekindle {
namespace {

using testing::HasSubstr;

std::shared_ptr<Model> mlp(bool batch_norm) {
  return make_model({"mlp", {{"hidden", std::vector<int64_t>{4}}, {"batch_norm", batch_norm}}}, {{3}, 2});
}

Job job(int64_t global, int64_t microbatch) {
  Job job;
  job.batch = {global, microbatch, 8};
  job.schedule.base_lr = 0.1;
  job.run.duration = {1, Unit::kEpochs};
  return job;
}

std::string refusal(const Job& job, bool batch_norm, int64_t samples, int world) {
  const auto model = mlp(batch_norm);
  try {
    check_fits(job, *model, samples, world);
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ExitCode::kBadInput);
    return error.what();
  }
  return "";
}

TEST(Preflight, BatchNormNeedsTwoSamplesInEveryPass) {
  EXPECT_EQ(refusal(job(32, 0), true, 64, 2), "");
  EXPECT_THAT(refusal(job(32, 0), true, 33, 1),
              HasSubstr("a batch of 1 leaves a forward pass a single sample"));
  EXPECT_EQ(refusal(job(32, 0), true, 35, 2), "");  // one rank has the three
  EXPECT_THAT(refusal(job(8, 1), true, 64, 2), HasSubstr("batch-norm needs two"));
  EXPECT_EQ(refusal(job(32, 0), false, 33, 1), "");
}

TEST(Preflight, VirtualWorkersAreAtLeastAsManyAsRanks) {
  Job any = job(32, 0);
  any.run.reproducible = Reproducible::kAnyWorld;
  any.batch.virtual_workers = 4;
  EXPECT_EQ(virtual_workers(any, 3), 4);
  EXPECT_THAT(refusal(any, false, 64, 5), HasSubstr("5 workers cannot share 4 virtual ones"));
}

TEST(Preflight, AScheduleThatDoesNotFitTheDataIsRefused) {
  Job late = job(32, 0);
  late.schedule.warmup = {100, Unit::kSamples};
  EXPECT_THAT(refusal(late, false, 64, 1), HasSubstr("longer than the run"));
}

TEST(RunningStatistics, ChangesAreAveragedBySamplesAndWhatNobodyChangedStays) {
  run_as_threads(3, {}, [](Communicator& communicator) {
    const auto model = mlp(true);
    NamedState state = state_of(*model);
    ASSERT_EQ(state.buffers[0].first, "norms.0.running_mean");
    at::Tensor mean = state.buffers[0].second, count = state.buffers[2].second;
    mean.fill_(0.1f);
    RunningStatistics statistics(state);
    const SumPlan plan = SumPlan::in_order_of_ranks(3);
    LeafValues values(communicator, plan, statistics.size());
    const auto agree = [&](double weight) {
      const std::span<double> row = values.row(communicator.rank());
      std::fill(row.begin(), row.end(), 0.0);
      for (int pass = 0; pass < 2; ++pass) statistics.add_change(weight / 2, row);
      values.exchange();
      communicator.join("statistics");
      statistics.apply(values.sums(), {values.shown(0), values.shown(1), values.shown(2)});
    };
    const double weights[] = {0.5, 0.25, 0.25};
    agree(weights[communicator.rank()]);
    EXPECT_TRUE(mean.eq(0.1f).all().item<bool>());  // not the mean of three times 0.1
    mean.add_(static_cast<float>(communicator.rank() * 4));
    count.fill_(5 + communicator.rank());
    agree(weights[communicator.rank()]);
    EXPECT_NEAR(mean[0].item<float>(), 3.1, 1e-6);  // 0.25 * 4 + 0.25 * 8
    const at::Tensor agreed = mean.clone();
    EXPECT_EQ(count.item<int64_t>(), 7);
    mean.fill_(9);
    statistics.reset();
    EXPECT_TRUE(mean.equal(agreed));
  });
}

TEST(NamedState, FrozenParametersAreNotTrained) {
  const auto model = mlp(false);
  model->named_parameters()["layers.0.weight"].requires_grad_(false);
  const NamedState state = state_of(*model);
  EXPECT_EQ(state.parameters.size(), 3u);
  ASSERT_EQ(state.frozen.size(), 1u);
  EXPECT_EQ(state.frozen[0].first, "layers.0.weight");
}

}  // namespace
}  // namespace rekindle
