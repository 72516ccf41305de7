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
  job.batch = {global, microbatch};
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
  EXPECT_THAT(refusal(job(32, 0), true, 33, 1), HasSubstr("a batch of 1 leaves a worker a single sample"));
  EXPECT_THAT(refusal(job(32, 0), true, 35, 2), HasSubstr("a batch of 3"));  // 1 and 2
  EXPECT_THAT(refusal(job(8, 1), true, 64, 2), HasSubstr("batch-norm needs two"));
  EXPECT_EQ(refusal(job(32, 0), true, 36, 2), "");
  EXPECT_EQ(refusal(job(32, 0), false, 33, 1), "");
}

TEST(Preflight, AScheduleThatDoesNotFitTheDataIsRefused) {
  Job late = job(32, 0);
  late.schedule.warmup = {100, Unit::kSamples};
  EXPECT_THAT(refusal(late, false, 64, 1), HasSubstr("longer than the run"));
}

TEST(RunningStatistics, ChangesAreAveragedAndWhatNobodyChangedStays) {
  run_as_threads(3, {}, [](Communicator& communicator) {
    const auto model = mlp(true);
    NamedState state = state_of(*model);
    ASSERT_EQ(state.buffers[0].first, "norms.0.running_mean");
    state.buffers[0].second.fill_(0.1f);
    RunningStatistics statistics(communicator, state);
    statistics.agree();
    EXPECT_TRUE(state.buffers[0].second.eq(0.1f).all().item<bool>());  // 3 x 0.1 / 3 would not be 0.1
    state.buffers[0].second.add_(static_cast<float>(communicator.rank()));
    state.buffers[2].second.fill_(5 + communicator.rank());
    statistics.agree();
    EXPECT_TRUE(state.buffers[0].second.eq(1.1f).all().item<bool>());
    EXPECT_EQ(state.buffers[2].second.item<int64_t>(), 7);
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
