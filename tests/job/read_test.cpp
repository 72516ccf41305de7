// SPDX-License-Identifier: Apache-2.0
#include <gmock/gmock.h>

#include <cmath>
#include <random>

#include "tests/job/job_files.h"

namespace rekindle {
namespace {

using ::testing::HasSubstr;
using ReadTest = JobTest;

TEST_F(ReadTest, WhatIsNotGivenHasItsDefault) {
  const Job job = read(kSmallJob);
  EXPECT_EQ(job.file, directory_.path() / "job.toml");
  EXPECT_EQ(job.model.name(), "mlp");
  EXPECT_EQ(job.model.integers("hidden", {}), (std::vector<int64_t>{100, 100}));
  EXPECT_EQ(job.data.kind, "safetensors");
  EXPECT_EQ(job.data.mean, 0);
  EXPECT_EQ(job.data.std, 1);
  EXPECT_TRUE(job.data.shuffle);
  EXPECT_EQ(job.batch.microbatch, 0);
  EXPECT_EQ(job.optimizer.name, "sgd");
  EXPECT_EQ(job.optimizer.weight_decay, 0);
  EXPECT_FALSE(job.optimizer.no_decay);
  EXPECT_TRUE(job.schedule.warmup.is_zero());
  EXPECT_EQ(job.schedule.decay, Decay::kConstant);
  EXPECT_EQ(job.warm_start.from, "");
  EXPECT_EQ(job.warm_start.strategy, Strategy::kWarm);
  EXPECT_EQ(job.split.test, 0);
  EXPECT_EQ(job.evaluation.every, (Length{1, Unit::kEpochs}));
  EXPECT_EQ(job.checkpoint.keep, 3);
  EXPECT_FALSE(job.verdict);
  EXPECT_EQ(job.run.workers, 1);
  EXPECT_EQ(job.run.deadline, std::chrono::minutes(10));
}

TEST_F(ReadTest, EveryKeyReachesItsField) {
  const Job job = read(kFullJob);
  EXPECT_EQ(job.model.name(), "mlp");
  EXPECT_EQ(job.model.integers("hidden", {}), (std::vector<int64_t>{32, 16}));
  EXPECT_EQ(job.model.real("dropout", 0), 0.25);
  EXPECT_TRUE(job.model.boolean("batch_norm", false));
  EXPECT_EQ(job.data.kind, "idx");
  ASSERT_EQ(job.data.increments.size(), 2u);
  EXPECT_EQ(job.data.increments[0].images, directory_.path() / "a.gz");
  EXPECT_EQ(job.data.increments[0].labels, "/abs/b.gz");
  EXPECT_EQ(job.data.increments[0].range, (std::pair<int64_t, int64_t>(0, 30000)));
  EXPECT_EQ(job.data.increments[1].images, directory_.path() / "c.gz");
  EXPECT_FALSE(job.data.increments[1].range);
  EXPECT_EQ(job.data.mean, 0.286);
  EXPECT_EQ(job.data.std, 0.353);
  EXPECT_FALSE(job.data.shuffle);
  EXPECT_EQ(job.batch.global, 1024);
  EXPECT_EQ(job.batch.microbatch, 128);
  EXPECT_EQ(job.optimizer.momentum, 0.9);
  EXPECT_TRUE(job.optimizer.nesterov);
  EXPECT_EQ(job.optimizer.weight_decay, 5e-4);
  EXPECT_EQ(job.optimizer.no_decay, (std::vector<std::string>{"*.bias", "norm\"*"}));
  EXPECT_EQ(job.optimizer.max_grad_norm, 1);
  EXPECT_EQ(job.schedule.base_lr, 0.1);
  EXPECT_EQ(job.schedule.base_batch, 256);
  EXPECT_EQ(job.schedule.lr_scaling, LrScaling::kLinear);
  EXPECT_EQ(job.schedule.warmup, (Length{0.06, Unit::kShare}));
  EXPECT_EQ(job.schedule.warmup_start_factor, 0.1);
  EXPECT_EQ(job.schedule.decay, Decay::kCosine);
  EXPECT_EQ(job.schedule.min_lr_factor, 0.01);
  EXPECT_EQ(job.warm_start.from, "promoted");
  EXPECT_EQ(job.warm_start.strategy, Strategy::kCold);
  EXPECT_EQ(job.warm_start.min_loaded, 0.5);
  EXPECT_EQ(job.evaluation.every, (Length{200, Unit::kBatches}));
  EXPECT_EQ(job.evaluation.batch, 100);
  EXPECT_EQ(job.split.validation, 0.05);
  EXPECT_EQ(job.split.test, 0.1);
  EXPECT_EQ(job.checkpoint.every, (Length{1800, Unit::kSeconds}));
  EXPECT_EQ(job.checkpoint.keep, 5);
  EXPECT_FALSE(job.checkpoint.verify);
  ASSERT_TRUE(job.verdict);
  EXPECT_EQ(job.verdict->metric, "loss");
  EXPECT_EQ(job.verdict->min_gain, -0.001);
  EXPECT_EQ(job.verdict->max_forgetting, 0.02);
  EXPECT_TRUE(job.verdict->promote_if_inconclusive);
  EXPECT_EQ(job.run.line, directory_.path() / "runs/fashion");
  EXPECT_EQ(job.run.directory, "");
  EXPECT_EQ(job.run.duration, (Length{10, Unit::kEpochs}));
  EXPECT_EQ(job.run.seed, 7u);
  EXPECT_EQ(job.run.reproducible, Reproducible::kSameWorld);
  EXPECT_EQ(job.run.threads, 2);
  EXPECT_EQ(job.run.workers, 4);
  EXPECT_EQ(job.run.deadline, std::chrono::seconds(90));
  EXPECT_EQ(job.run.on_nan, OnNan::kSkip);
  EXPECT_EQ(job.run.log_every, (Length{1, Unit::kBatches}));
}

TEST_F(ReadTest, WhatIsWrittenReadsBackToTheSameJob) {
  const std::vector<std::vector<std::string>> cases{
      {},
      {R"(optimizer={name="adamw", betas=[0.8, 0.95], eps=1e-6, no_decay=[]})"},
      {R"(model={name="logistic"})", "run.directory=elsewhere", "warm_start.from=../old"},
      {R"(model={name="my-net", width=64, rate=1.0, tiny=1e-30, on=true, kind="a\"b\\c\nd", "odd key"=1})"},
      {R"(model={name="my-net", sizes=[1, -2], empty=[], words=["a", "b"], far=inf})"},
      {R"(data={path="x y.safetensors"})", "data.shuffle=false", "evaluation.validation=0"},
  };
  for (const std::vector<std::string>& overrides : cases) {
    const Job job = read(kFullJob, overrides);
    const std::string text = to_toml(job);
    std::filesystem::create_directory(directory_.path() / "sub");  // so that a relative path would be seen
    const Job again = read_job(write(text, "sub/resolved.toml"));
    EXPECT_EQ(to_toml(again), text);
    EXPECT_EQ(job_digest(again), job_digest(job));
  }
}

TEST_F(ReadTest, NumbersKeepEveryBit) {
  std::mt19937_64 random(3);
  for (int i = 0; i < 200; ++i) {
    Job job = read(kSmallJob);
    job.schedule.base_lr = std::exp2(std::uniform_real_distribution<double>(-60, 60)(random));
    job.data.mean = -job.schedule.base_lr / 3;
    const Job again = read_job(write(to_toml(job), "again.toml"));
    ASSERT_EQ(again.schedule.base_lr, job.schedule.base_lr);
    ASSERT_EQ(again.data.mean, job.data.mean);
  }
}

TEST_F(ReadTest, EqualJobsHaveEqualDigestsHoweverTheyAreWritten) {
  const std::string digest = job_digest(read(kSmallJob));
  EXPECT_EQ(digest,
            job_digest(read(kSmallJob, {"optimizer.name=sgd", "model.dropout=0", "batch.microbatch=0"})));
  EXPECT_EQ(digest,
            job_digest(read(kSmallJob, {"schedule.warmup=0ba", R"(data.increments=["data.safetensors"])"})));
  EXPECT_NE(digest, job_digest(read(kSmallJob, {"schedule.base_lr=0.2"})));
  EXPECT_NE(digest, job_digest(read(kSmallJob, {"verdict={}"})));
}

TEST_F(ReadTest, DataHaveThreeForms) {
  const auto increments = [&](const std::string& data) {
    const DataOptions options = read(kSmallJob, {"data={" + data + "}"}).data;
    EXPECT_EQ(options.kind, "safetensors");
    return options.increments;
  };
  const auto one = increments(R"(path = "a/../b.safetensors")");
  ASSERT_EQ(one.size(), 1u);
  EXPECT_EQ(one[0].path, directory_.path() / "b.safetensors");

  const auto two =
      increments(R"(increments = ["a.safetensors", { path = "/b.safetensors", range = [5, 9] }])");
  ASSERT_EQ(two.size(), 2u);
  EXPECT_EQ(two[0].path, directory_.path() / "a.safetensors");
  EXPECT_EQ(two[1].path, "/b.safetensors");
  EXPECT_EQ(two[1].range, (std::pair<int64_t, int64_t>(5, 9)));
  EXPECT_EQ(read(kSmallJob, {R"(data={increments = [{ images = "a", labels = "b" }]})"}).data.kind, "idx");
}

TEST_F(ReadTest, AModelOfOnesOwnHasKeysOfItsOwn) {
  const Job job =
      read(kSmallJob, {R"(model={name="my-net", hidden="wide", width=64, deep=[1, 2], words=["a"]})",
                       "model.rate=0.5", "model.on=true"});
  EXPECT_EQ(job.model.name(), "my-net");
  EXPECT_EQ(job.model.text("hidden", ""), "wide");
  EXPECT_EQ(job.model.integer("width", 0), 64);
  EXPECT_EQ(job.model.real("rate", 0), 0.5);
  EXPECT_TRUE(job.model.boolean("on", false));
  EXPECT_EQ(job.model.integers("deep", {}), (std::vector<int64_t>{1, 2}));
  EXPECT_EQ(job.model.values().size(), 6u);
}

TEST_F(ReadTest, AdamWDecaysByDefault) {
  EXPECT_EQ(read(kSmallJob, {"optimizer.name=adamw"}).optimizer.weight_decay, 0.01);
  EXPECT_EQ(read(kSmallJob, {"optimizer.name=adamw", "optimizer.weight_decay=0"}).optimizer.weight_decay, 0);
}

TEST_F(ReadTest, OverridesWin) {
  const Job job = read(kFullJob, {"schedule.base_lr=0.2", "run.seed=1", "run.seed = 9", "run.duration=3ep",
                                  "data.normalize.mean=[0.5]", "verdict.metric=accuracy",
                                  R"(data.increments=[{images="e", labels="f"}])"});
  EXPECT_EQ(job.schedule.base_lr, 0.2);
  EXPECT_EQ(job.run.seed, 9u);
  EXPECT_EQ(job.run.duration, (Length{3, Unit::kEpochs}));
  EXPECT_EQ(job.data.mean, 0.5);
  EXPECT_EQ(job.data.std, 0.353);  // a key leaves its neighbours
  EXPECT_EQ(job.verdict->metric, "accuracy");
  EXPECT_EQ(job.verdict->max_forgetting, 0.02);
  ASSERT_EQ(job.data.increments.size(), 1u);
  EXPECT_EQ(job.data.increments[0].images, directory_.path() / "e");

  const Job table = read(kFullJob, {"data.normalize={mean=[0.5]}"});
  EXPECT_EQ(table.data.mean, 0.5);
  EXPECT_EQ(table.data.std, 1);  // a table takes the place of all of it
}

TEST_F(ReadTest, ChangesToImagesAreASet) {
  const std::string both = to_toml(read(kSmallJob, {R"(data.augment=["crop", "flip"])"}));
  EXPECT_THAT(both, HasSubstr(R"(augment = ["crop", "flip"])"));
  EXPECT_EQ(to_toml(read(kSmallJob, {R"(data.augment=["flip", "crop"])"})), both);
  const AugmentOptions flip = read(kSmallJob, {R"(data.augment=["flip"])"}).data.augment;
  EXPECT_TRUE(flip.flip && !flip.crop);
  EXPECT_FALSE(read(kSmallJob).data.augment.any());
  EXPECT_THAT(mistakes(kSmallJob, {R"(data.augment=["flip", "crop", "flip"])"})[1],
              HasSubstr("names \"flip\" twice"));
  EXPECT_THAT(mistakes(kSmallJob, {R"(data.augment=["flp"])"})[1], HasSubstr("did you mean 'flip'?"));
}

TEST_F(ReadTest, AnOverrideTakesThePlaceOfWhatItExcludes) {
  const Job outside = read(kFullJob, {"run.directory=/tmp/cold", "warm_start.from=old"});
  EXPECT_EQ(outside.run.line, "");
  EXPECT_EQ(outside.run.directory, "/tmp/cold");
  const Job inside = read(kSmallJob, {"run.line=2026-11-20"});  // a date in TOML, a path here
  EXPECT_EQ(inside.run.directory, "");
  EXPECT_EQ(inside.run.line, directory_.path() / "2026-11-20");
  EXPECT_EQ(read(kSmallJob, {R"(data.increments=["a", "b"])"}).data.increments.size(), 2u);
}

TEST_F(ReadTest, ARelativeFileGivesAbsolutePaths) {
  write(kSmallJob);
  const std::filesystem::path before = std::filesystem::current_path();
  std::filesystem::current_path(directory_.path());
  const Job job = read_job("job.toml");
  std::filesystem::current_path(before);
  EXPECT_EQ(job.file, directory_.path() / "job.toml");
  EXPECT_EQ(job.run.directory, directory_.path() / "out");
}

TEST_F(ReadTest, ExamplesAreValidJobs) {
  int count = 0;
  for (const auto& entry : std::filesystem::directory_iterator(REKINDLE_SOURCE_DIR "/examples")) {
    if (entry.path().extension() != ".toml") continue;
    const Job job = read_job(entry.path());
    EXPECT_EQ(to_toml(read_job(write(to_toml(job)))), to_toml(job)) << entry.path();
    ++count;
  }
  EXPECT_GT(count, 0);
}

}  // namespace
}  // namespace rekindle
