// SPDX-License-Identifier: Apache-2.0
#include <gmock/gmock.h>

#include "tests/job/job_files.h"

namespace rekindle {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::StartsWith;
using MistakesTest = JobTest;

TEST_F(MistakesTest, AllOfAFileAreToldAtOnceWithTheirPlaces) {
  const std::string text = R"([model]
hiden = [100]
[data]
path = "data.safetensors"
[batch]
global = 64.0
[schedule]
base_lr = -0.1
lr_scaling = "linear"
[run]
directory = "out"
  duration = "2eq"
)";
  EXPECT_THAT(
      mistakes(text),
      ElementsAre(
          "5 mistakes in the job", "job.toml:2:1: unknown key 'hiden' in [model], did you mean 'hidden'?",
          "job.toml:6:10: batch.global is 64.0, expected an integer >= 1",
          "job.toml:8:11: schedule.base_lr is -0.1, expected a number > 0",
          "job.toml:9:1: schedule.lr_scaling needs schedule.base_batch, the global batch that base_lr "
          "was tuned at",
          AllOf(StartsWith("job.toml:12:14: run.duration"), HasSubstr("unknown unit 'eq'"))));
}

TEST_F(MistakesTest, ASlipIsToldOnceAndWithTheRightKey) {
  const auto slip = [&](const std::string& from, const std::string& to) {
    std::string text = kSmallJob;
    text.replace(text.find(from), from.size(), to);
    const auto found = mistakes(text);
    EXPECT_EQ(found.size(), 2u) << found.back();
    return found[1];
  };
  EXPECT_EQ(slip("base_lr", "base_lrr"),
            "job.toml:6:1: unknown key 'base_lrr' in [schedule], did you mean 'base_lr'?");
  EXPECT_EQ(slip("[schedule]", "[scheduel]"),
            "job.toml:5:2: unknown section or key 'scheduel', did you mean 'schedule'?");
  EXPECT_EQ(slip("duration =", "durations ="),
            "job.toml:9:1: unknown key 'durations' in [run], did you mean 'duration'?");
  EXPECT_EQ(slip("[data]", "seed = 1\n[data]"),
            "job.toml:1:1: unknown section or key 'seed', did you mean 'run.seed'?");
  EXPECT_EQ(slip("[run]", "[run]\nbase_batch = 3"),
            "job.toml:8:1: unknown key 'base_batch' in [run], did you mean 'schedule.base_batch'?");
  EXPECT_THAT(slip("[run]", "[checkpoint]\nzzzzzz = 3\n[run]"),
              HasSubstr("'zzzzzz' in [checkpoint], expected one of every, keep, keep_every, background, "
                        "verify and gather"));
}

struct Refused {
  std::string override_text, what;
};

TEST_F(MistakesTest, WrongTypesAndValuesOutOfRange) {
  const std::vector<Refused> cases{
      {"model=3", "model is 3, expected a table, [model]"},
      {"model.hidden=[3, 0]", "model.hidden is 0, expected an integer >= 1"},
      {"model.hidden=100", "model.hidden is 100, expected a list of integers >= 1"},
      {"model.dropout=1.0", "model.dropout is 1.0, expected a number in [0, 1)"},
      {"model.batch_norm=1", "model.batch_norm is 1, expected true or false"},
      {"model.name=", "model.name is \"\", expected a name"},
      {"data.normalize=[1]", "data.normalize is a list, expected a table, [data.normalize]"},
      {"data.normalize.std=[0]", "data.normalize.std is 0, expected a number > 0"},
      {"data.normalize.mean=[nan]", "data.normalize.mean is nan, expected a number"},
      {"data.normalize.mean=[]", "data.normalize.mean is a list, expected a list of one number"},
      {"data.path=\"a\\u0000b\"", "data.path is \"a?b\", expected a path without control characters"},
      {"data.increments=[]", "data.increments is a list, expected a list of at least one table or path"},
      {"data.increments=[{path=\"a\", range=[3, 3]}]",
       "data.increments.range is a list, expected a list of two integers"},
      {"data.increments=[{path=\"a\", range=[3]}]",
       "data.increments.range is a list, expected a list of two integers"},
      {"data.increments=[{path=\"a\", range=[-1, 3]}]",
       "data.increments.range is -1, expected an integer >= 0"},
      {"data.increments=[{images=\"a\"}]", "data.increments lacks 'labels'"},
      {"data.increments=[{images=\"a\", label=\"b\"}]",
       "unknown key 'label' in [data.increments], did you mean 'labels'?"},
      {"data.increments=[{}]", "data.increments is empty"},
      {"data.increments=[7]", "data.increments is 7, expected a table or a path"},
      {"data.kind=imx", "data.kind is \"imx\", expected \"idx\" or \"safetensors\", did you mean 'idx'?"},
      {"data.shuffle=\"yes\"", "data.shuffle is \"yes\", expected true or false"},
      {"batch.global=0", "batch.global is 0, expected an integer >= 1"},
      {"batch.microbatch=-1", "batch.microbatch is -1, expected an integer >= 0"},
      {"optimizer.momentum=1", "optimizer.momentum is 1, expected a number in [0, 1)"},
      {"optimizer.name=adm",
       "optimizer.name is \"adm\", expected \"sgd\", \"adam\", \"adamw\", \"lars\" or \"lamb\", did you mean "
       "'adam'?"},
      {"optimizer={name=\"adamw\", betas=[0.9, 1.0]}", "optimizer.betas is 1.0, expected a number in [0, 1)"},
      {"optimizer={name=\"adamw\", betas=[0.9]}",
       "optimizer.betas is a list, expected a list of two numbers in [0, 1)"},
      {"optimizer.no_decay=[1]", "optimizer.no_decay is 1, expected a glob"},
      {"optimizer.weight_decay=inf", "optimizer.weight_decay is inf, expected a number >= 0"},
      {"schedule.base_lr=0", "schedule.base_lr is 0, expected a number > 0"},
      {"schedule.base_lr=abc", "schedule.base_lr is \"abc\", expected a number > 0"},
      {"schedule.warmup=5", "schedule.warmup is 5, expected a length such as \"5ep\""},
      {"schedule.warmup=1.5dur", "schedule.warmup is \"1.5dur\", expected a share of at most \"1dur\""},
      {"schedule.min_lr_factor=0.1",
       "schedule.min_lr_factor is where a decay ends, expected schedule.decay with it"},
      {"schedule={base_lr=0.1, decay=\"cosine\", min_lr_factor=1.5}",
       "schedule.min_lr_factor is 1.5, expected a number in [0, 1]"},
      {"warm_start.from=1", "warm_start.from is 1, expected \"promoted\" or a path"},
      {"warm_start.strategy=hot", "warm_start.strategy is \"hot\", expected \"cold\" or \"warm\""},
      {"warm_start.min_loaded=2", "warm_start.min_loaded is 2, expected a number in [0, 1]"},
      {"evaluation.every=0ep", "evaluation.every is \"0ep\", expected a length > 0"},
      {"evaluation.test=-0.1", "evaluation.test is -0.1, expected a number in [0, 1)"},
      {"checkpoint.keep=1", "checkpoint.keep is 1, expected an integer >= 2"},
      {"checkpoint.keep=3000000000", "checkpoint.keep is 3000000000, expected an integer >= 2"},
      {"verdict.max_forgetting=-1", "verdict.max_forgetting is -1, expected a number >= 0"},
      {"verdict.metric=acuracy", "did you mean 'accuracy'?"},
      {"run.duration=0.5dur", "run.duration is \"0.5dur\", expected a length > 0, not a share"},
      {"run.duration=0ep", "run.duration is \"0ep\", expected a length > 0, not a share"},
      {"run.seed=-1", "run.seed is -1, expected an integer >= 0"},
      {"run.seed=07:32:00", "run.seed is \"07:32:00\", expected an integer >= 0"},
      {"run.threads=2000", "run.threads is 2000, expected an integer in [1, 1024]"},
      {"run.workers=0", "run.workers is 0, expected an integer >= 1"},
      {"run.deadline=3ep", "run.deadline is \"3ep\", expected a time > 0"},
      {"run.deadline=1e9h", "run.deadline is \"1e9h\", expected a time > 0"},
      {"run.line=", "run.line is \"\", expected a path"},
      {"run.duration=1e13ba", "run.duration is \"1e13ba\", expected at most 1e12"},
      {"run.duration=3", "run.duration is 3, expected a length > 0 such as \"5ep\", not a share"},
      {"optimizer.name=AdamW", "did you mean 'adamw'?"},
      {"schedule.warmup_steps=10",
       "unknown key 'warmup_steps' in [schedule], did you mean 'schedule.warmup'?"},
      {"optimizer.ema_decay=0.9", "did you mean 'optimizer.ema_half_life'?"},
      {"batch.batch_size=9", "did you mean 'batch.global'?"},
      {"optimizer.ema=0.9", "did you mean 'optimizer.ema_half_life'?"},
      {"warm_start.ema=load", "did you mean 'warm_start.load.ema'?"},
      {"optimizer.groups=[{match=[\"a\"], lr=1}]", "unknown key 'lr' in [optimizer.groups], expected one of"},
      {"run.durations=3ep", "unknown key 'durations' in [run], did you mean 'duration'?"},
      {"runs.seed=3", "unknown section or key 'runs', did you mean 'run'?"},
      {"run.seed", "expected section.key=value"},
      {"=3", "expected section.key=value"},
      {"run seed=3", "expected section.key=value"},
  };
  for (const Refused& refused : cases) {
    const auto found = mistakes(kSmallJob, {refused.override_text});
    EXPECT_EQ(found[0], "1 mistake in the job") << found.back();
    std::string text = refused.override_text;  // a control character would be told as "?"
    EXPECT_THAT(found[1], AllOf(StartsWith("override '" + text + "': "), HasSubstr(refused.what)));
  }
}

TEST_F(MistakesTest, ContradictoryKeys) {
  const std::vector<std::pair<std::vector<std::string>, std::string>> cases{
      {{"warm_start.from=promoted"}, "warm_start.from is \"promoted\" but run.directory is in no line"},
      {{"schedule.warmup=5min"}, "schedule.warmup is \"5min\" in a run of \"2ep\", expected both as times"},
      {{"schedule.warmup=3ep"}, "schedule.warmup is longer than run.duration, expected at most \"2ep\""},
      {{"run.line=a", "run.directory=b"}, "run.directory contradicts run.line, expected only one of them"},
      {{"data.path=a", "data.increments=[\"b\"]"},
       "data.path contradicts data.increments, expected only one of them"},
      {{"data.kind=idx"}, "data.kind is \"idx\", expected \"safetensors\" as the increments have 'path'"},
      {{"data.increments=[{images=\"a\", labels=\"b\"}]", "data.kind=safetensors"},
       "data.kind is \"safetensors\", expected \"idx\" as the increments have 'images' and 'labels'"},
      {{"data.increments=[{images=\"a\", labels=\"b\"}, \"c\"]"}, "data.increments mixes formats"},
      {{"data.increments=[{images=\"a\", labels=\"b\", path=\"c\"}]"},
       "has 'path' and also 'images' or 'labels'"},
      {{"optimizer.nesterov=true"}, "optimizer.nesterov is true without momentum"},
      {{"optimizer.betas=[0.9, 0.99]"}, "optimizer.betas does not go with optimizer.name = \"sgd\""},
      {{"optimizer.name=adamw", "optimizer.momentum=0.9"},
       "optimizer.momentum does not go with optimizer.name = \"adamw\""},
      {{"schedule.lr_scaling=linear"}, "schedule.lr_scaling needs schedule.base_batch"},
      {{"schedule.warmup=1ep", "schedule.warmup_fixed_in=steps"},
       "schedule.warmup_fixed_in needs schedule.base_batch"},
      {{"schedule.lr_scaling=adam-sqrt", "schedule.base_batch=64"},
       "schedule.lr_scaling is \"adam-sqrt\", expected it only with an optimizer that has betas"},
      {{"schedule.warmup=untuned"},
       "schedule.warmup is \"untuned\", expected it only with an optimizer that has betas"},
      {{"schedule.warmup=radam", "optimizer.name=adamw", "schedule.warmup_shape=cosine"},
       "schedule.warmup is \"radam\", expected schedule.warmup_shape = \"linear\" with it"},
      {{"schedule.warmup=5ba", "schedule.warmup_shape=exponential"},
       "schedule.warmup_shape is \"exponential\", expected a schedule.warmup_start_factor > 0 with it"},
      {{"schedule.warmup=5ba", "schedule.warmup_shape=constant"},
       "schedule.warmup_shape is \"constant\", expected a schedule.warmup_start_factor > 0 with it"},
      {{"schedule.warmup=5ba", "schedule.warmup_start_lr=0.01", "schedule.warmup_start_factor=0.1"},
       "schedule.warmup_start_lr contradicts schedule.warmup_start_factor"},
      {{"schedule.decay_power=2"},
       "schedule.decay_power does not go with schedule.decay = \"constant\", expected it only with "
       "\"polynomial\""},
      {{"schedule.decay=step"},
       "schedule.decay is \"step\", expected schedule.decay_every or schedule.decay_at"},
      {{"schedule.decay=step", "schedule.decay_every=1ba", "schedule.decay_at=[\"2ba\"]"},
       "schedule.decay_at contradicts schedule.decay_every"},
      {{"schedule.decay=exponential"}, "is \"exponential\", expected schedule.decay_every with it"},
      {{"schedule.decay=wsd"}, "schedule.decay is \"wsd\", expected schedule.cooldown with it"},
      {{"evaluation.validation=0.5", "evaluation.test=0.5"}, "leave nothing to train on"},
      {{"optimizer.max_grad_norm=1", "optimizer.max_grad_value=1"},
       "optimizer.max_grad_value contradicts optimizer.max_grad_norm"},
      {{"evaluation.weights=averaged"},
       "evaluation.weights is \"averaged\", expected optimizer.ema_half_life with it"},
      {{"schedule.decay=plateau"},
       "schedule.decay looks at validation data, expected evaluation.validation > 0"},
      {{"schedule.decay=plateau", "evaluation.validation=0.1", "schedule.decay_factor=1"},
       "schedule.decay_factor is not below 1"},
      {{"schedule.warmup_until=training-loss", "schedule.warmup=5ba"},
       "expected schedule.warmup_bound or schedule.warmup_patience with it"},
      {{"schedule.warmup_until=training-loss", "schedule.warmup_patience=5"},
       "expected a length as schedule.warmup with it, which it does not go "
       "beyond"},
      {{"schedule.warmup_until=validation-loss", "schedule.warmup=5ba", "schedule.warmup_patience=5"},
       "schedule.warmup_until looks at validation data"},
      {{"schedule.warmup_until=training-loss", "schedule.warmup=5ba", "schedule.warmup_patience=5",
        "schedule.warmup_min=6ba"},
       "schedule.warmup_min is longer than schedule.warmup"},
      {{"schedule.warmup_bound=1"},
       "schedule.warmup_bound does not go with schedule.warmup_until = \"length\""},
      {{"schedule.warmup_momentum=0.5", "schedule.warmup=5ba"},
       "expected optimizer.momentum > 0 or betas with it"},
      {{"schedule.warmup_momentum=0.5", "optimizer.momentum=0.9"},
       "expected a length as schedule.warmup with it"},
      {{"schedule.warmup_momentum=0", "optimizer.momentum=0.9", "schedule.warmup=5ba"},
       "schedule.warmup_momentum is 0, expected a number in (0, 1)"},
      {{"batch={per_worker=8}", "run.duration=9ba"},
       "run.duration has \"9ba\", and with batch.per_worker the size of a step follows the number of "
       "workers"},
      {{"warm_start.from=old", "warm_start.load={ema=\"load\"}",
        "optimizer={ema_half_life=\"1ep\", groups=[{match=[\"a\"], freeze=true}]}"},
       "of a parameter that a group freezes there is only one"},
      {{"schedule.decay=wsd", "schedule.cooldown=5ba", "schedule.stable_factor=0.5"},
       "schedule.stable_factor is below 1, expected schedule.settle with it"},
      {{"batch.start=8"}, "batch.start is where the batch starts to grow, expected batch.ramp with it"},
      {{"batch.ramp=1ep"}, "batch.ramp is how long the batch grows, expected batch.start with it"},
      {{"batch.start=128", "batch.ramp=1ep"}, "batch.start is more than batch.global"},
      {{"batch.start=8", "batch.ramp=9ba"}, "batch.ramp is \"9ba\", expected samples or epochs"},
      {{"warm_start.load.schedule=continue"}, "expected warm_start.from with it"},
      {{"warm_start.load.schedule=re-warm", "warm_start.from=old"},
       "expected a length as schedule.warmup with it"},
      {{"warm_start.load.schedule=re-warm", "warm_start.from=old", "schedule.warmup=5ba",
        "schedule.warmup_start_factor=0.1"},
       "contradicts warm_start.load.schedule = \"re-warm\""},
      {{"warm_start.rewarm_factor=0.5"}, "does not go with warm_start.load.schedule = \"reset\""},
      {{"warm_start.load.ema=load"}, "expected optimizer.ema_half_life with it"},
      {{"run.max_rollbacks=2"}, "run.max_rollbacks does not go with run.on_nan = \"stop\""},
      {{"optimizer.groups=[{match=[\"a\"], freeze=true, unfreeze_at=\"1ep\"}]"},
       "has 'freeze' and also how to train it"},
      {{"schedule.warmup=raddam"}, "did you mean 'radam'?"},
      {{"verdict.max_forgetting=5"}, "expected a share below 1: 0.01 is one percent"},
      {{"verdict.min_gain=1"}, "expected a share below 1: 0.01 is one percent"},
      {{"evaluation.validation=0.1", "schedule.warmup=5ba", "schedule.warmup_until=validation-accuracy",
        "schedule.warmup_bound=80"},
       "schedule.warmup_bound is no accuracy, expected a share of the samples: 0.8 is 80 %"},
      {{"run.reproducible=any-world", "run.on_nan=rollback", "checkpoint.every=1min"},
       "checkpoint.every is \"1min\", expected samples, steps or epochs"},
      {{"schedule.decay=step", "schedule.decay_at=[]"}, "expected schedule.decay_every or schedule.decay_at"},
      {{"schedule.warmup_shape=cosine"},
       "schedule.warmup_shape is about a warm-up, expected schedule.warmup"},
      {{"schedule.warmup_start_factor=0.5"}, "is about a warm-up, expected schedule.warmup with it"},
      {{"optimizer={name=\"adamw\"}", "schedule.warmup=radam", "schedule.warmup_start_factor=0.5"},
       "schedule.warmup_start_factor does not go with a warm-up by rule"},
      {{"run.duration=10min", "schedule.warmup=1min", "schedule.warmup_fixed_in=steps",
        "schedule.base_batch=8"},
       "schedule.warmup_fixed_in is \"steps\", expected a run.duration in epochs, steps or samples"},
      {{"batch.start=8", "batch.ramp=1ep", "schedule.decay=wsd", "schedule.cooldown=5ba"},
       "schedule.cooldown has \"5ba\", and with batch.ramp steps grow"},
      {{"warm_start.from=old", "warm_start.strategy=cold", "warm_start.load.schedule=continue"},
       "warm_start.load.schedule takes from the parent, and with warm_start.strategy = \"cold\" nothing is"},
      {{"warm_start.from=old", "warm_start.load={weights=\"reset\", schedule=\"continue\"}"},
       "warm_start.load.schedule takes from the parent without the weights that it belongs to"},
      {{"model.name=logistic", "model.hidden=[3]"}, "model.hidden does not go with model.name = 'logistic'"},
  };
  for (const auto& [overrides, what] : cases) {
    const auto found = mistakes(kSmallJob, overrides);
    EXPECT_EQ(found[0], "1 mistake in the job") << found.back();
    EXPECT_THAT(found[1], HasSubstr(what));
  }
  EXPECT_THAT(mistakes(kSmallJob, {"batch={per_worker=3}", "run.reproducible=any-world"})[1],
              HasSubstr("batch.per_worker makes another batch of another number of workers"));
  EXPECT_THAT(mistakes("[batch]\nglobal = 3\nper_worker = 3\n" + std::string(kSmallJob).erase(37, 20)),
              ::testing::Contains(HasSubstr("job.toml:3:1: batch.per_worker contradicts batch.global")));
}

TEST_F(MistakesTest, MissingKeysAreToldAtTheirSection) {
  EXPECT_THAT(
      mistakes("[run]\nseed = 1\n\n[batch]\n"),
      ElementsAre("5 mistakes in the job",  //
                  "job.toml:1:1: [data] lacks a key, expected one of 'increments', 'path' and 'manifest'",
                  "job.toml:1:1: [schedule] lacks 'base_lr', expected a number > 0",
                  "job.toml:1:1: [run] lacks a key, expected one of 'line' and 'directory'",
                  "job.toml:1:1: [run] lacks 'duration', expected a length > 0, not a share",
                  "job.toml:4:1: [batch] lacks a key, expected one of 'global' and 'per_worker'"));
}

TEST_F(MistakesTest, ASyntaxErrorHasTheSameForm) {
  const auto found = mistakes("[run]\nseed = = 1\n");
  EXPECT_EQ(found[0], "1 mistake in the job");
  EXPECT_THAT(found[1], StartsWith("job.toml:2:8: no TOML: "));
  EXPECT_THAT(mistakes("[run]\nseed = 1\nseed = 2\n")[1], StartsWith("job.toml:3:"));
}

TEST_F(MistakesTest, OneInAnOverrideNamesTheOverride) {
  const auto found =
      mistakes(std::string(kSmallJob) + "sed = 3\n", {"run.threads=2", "schedule.base_lr=abc"});
  EXPECT_THAT(found, ElementsAre("2 mistakes in the job", StartsWith("job.toml:10:1: unknown key 'sed'"),
                                 StartsWith("override 'schedule.base_lr=abc': schedule.base_lr is \"abc\"")));
}

TEST_F(MistakesTest, AtMostFiftyAreListed) {
  std::string text = kSmallJob;
  for (int i = 0; i < 60; ++i) text += "zzzzzz" + std::to_string(i) + " = 1\n";
  const auto found = mistakes(text);
  EXPECT_EQ(found.size(), 52u);
  EXPECT_EQ(found.front(), "60 mistakes in the job");
  EXPECT_EQ(found.back(), "and 10 more");
}

TEST_F(MistakesTest, OwnModelsTakeNoTables) {
  EXPECT_THAT(mistakes(kSmallJob, {"model={name=\"my-net\", a={b=1}}"})[1],
              HasSubstr("model.a is a table, expected a text"));
  EXPECT_THAT(mistakes(kSmallJob, {"model={name=\"my-net\", a=[1, 2.5]}"})[1],
              HasSubstr("model.a is 2.5, expected a list of integers or of texts"));
}

TEST_F(MistakesTest, AFileThatCannotBeRead) {
  const auto refusal = [&](const std::filesystem::path& file) {
    try {
      read_job(file);
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ExitCode::kBadInput);
      EXPECT_EQ(error.details().where, file.string());
      return error.summary();
    }
    return std::string("taken");
  };
  EXPECT_THAT(refusal(directory_.path() / "none.toml"), HasSubstr("there is no such file"));
  EXPECT_THAT(refusal(directory_.path()), HasSubstr("it is a directory"));
  EXPECT_THAT(refusal(write(std::string((1 << 20) + 1, '#'))), HasSubstr("more than 1 MiB"));
}

TEST_F(MistakesTest, AFileThatIsNotUtf8) {
  EXPECT_THAT(mistakes("[run]\nline = \"\xff\xfe\"\n")[1], StartsWith("job.toml:2:"));
}

}  // namespace
}  // namespace rekindle
