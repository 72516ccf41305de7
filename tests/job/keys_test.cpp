// SPDX-License-Identifier: Apache-2.0
// Goes over the table of keys, so that a new key cannot be forgotten here.
#include "job/keys.h"

#include <gmock/gmock.h>

#include <map>

#include "tests/job/job_files.h"

namespace rekindle {
namespace {

using ::testing::HasSubstr;
using KeysTest = JobTest;

constexpr char kNotBuilt[] = " (not in this version";

bool is_later(const Key<Job>& key) {
  return key.print(Job{}).empty() && key.meaning.find(kNotBuilt) != std::string::npos;
}

// The values that the meaning lists as not in this version.
std::vector<std::string> values_not_built(const Key<Job>& key) {
  const size_t note = key.meaning.find(kNotBuilt);
  if (note == std::string::npos) return {};
  std::string list = key.meaning.substr(note, key.meaning.find(')', note) - note);
  std::vector<std::string> values;
  for (size_t begin; (begin = list.find('"')) != std::string::npos;) {
    const size_t end = list.find('"', begin + 1);
    values.push_back(list.substr(begin, end - begin + 1));
    list.erase(0, end + 1);
  }
  return values;
}

// For each key that is not built at all and lists no values: one that is not its neutral value.
const std::map<std::string, std::string> kOther{
    {"data.manifest", "\"parts.toml\""}, {"data.replay.share", "0.5"}, {"warm_start.shrink_factor", "0.4"},
    {"warm_start.noise_factor", "0.1"},  {"run.max_restarts", "3"},
};

TEST_F(KeysTest, WhatIsNotBuiltIsKnownAndSaysSo) {
  int refused = 0;
  for (const Key<Job>& key : job_keys()) {
    std::vector<std::string> values = values_not_built(key);
    if (kOther.contains(key.full_name())) values.push_back(kOther.at(key.full_name()));
    const bool has_one_value = key.type == "\"uniform\"";
    EXPECT_EQ(is_later(key) && !has_one_value && values.empty(), false) << key.full_name();
    for (const std::string& value : values) {
      const auto found = mistakes(kSmallJob, {key.full_name() + "=" + value});
      EXPECT_EQ(found.size(), 2u) << found.back();
      EXPECT_THAT(found[1], HasSubstr(key.full_name() + " = ")) << key.full_name() << value;
      EXPECT_THAT(found[1], HasSubstr(" is not in this version")) << key.full_name() << value;
      ++refused;
    }
  }
  EXPECT_GT(refused, 20);
  for (const char* text :
       {"data.use=last:30", "run.duration=1e9tok", "data.normalize.mean=[0.1, 0.2, 0.3]"}) {
    EXPECT_THAT(mistakes(kSmallJob, {text})[1], HasSubstr("not in this version")) << text;
  }
}

TEST_F(KeysTest, DefaultsMayBeGiven) {
  const std::string plain = to_toml(read(kSmallJob));
  for (const Key<Job>& key : job_keys()) {
    if (!key.fallback.starts_with("`") || key.fallback.find("` ") != std::string::npos ||
        key.section == "verdict")
      continue;
    if (!has_meaning(key, read(kSmallJob))) continue;
    const std::string value = key.fallback.substr(1, key.fallback.size() - 2);
    EXPECT_EQ(to_toml(read(kSmallJob, {key.full_name() + "=" + value})), plain) << key.full_name();
  }
}

// For each key that is built: a value that kFullJob does not have.
const std::map<std::string, std::string> kChanged{
    {"model.name", "logistic"},
    {"model.hidden", "[7]"},
    {"model.dropout", "0.5"},
    {"model.batch_norm", "false"},
    {"data.kind", ""},  // follows from the increments
    {"data.increments", "[\"z\"]"},
    {"data.path", "z"},
    {"data.shuffle", "true"},
    {"data.augment", "[\"flip\"]"},
    {"data.normalize.mean", "[0.5]"},
    {"data.normalize.std", "[0.5]"},
    {"batch.global", "512"},
    {"batch.per_worker", "128"},
    {"batch.start", "16"},
    {"batch.ramp", "2ep"},
    {"batch.microbatch", "64"},
    {"batch.virtual_workers", "16"},
    {"optimizer.name", "adamw"},
    {"optimizer.momentum", "0.8"},
    {"optimizer.nesterov", "false"},
    {"optimizer.betas", "[0.8, 0.9]"},
    {"optimizer.eps", "1e-6"},
    {"optimizer.weight_decay", "0.1"},
    {"optimizer.no_decay", "[]"},
    {"optimizer.trust_coefficient", "0.01"},
    {"optimizer.groups", "[{match=[\"a*\"], lr_factor=2, weight_decay=0.5}, {match=[\"b\"], freeze=true}]"},
    {"optimizer.layer_decay", "0.8"},
    {"optimizer.max_grad_norm", "2.0"},
    {"optimizer.max_grad_value", "0.5"},
    {"optimizer.ema_half_life", "0.5ep"},
    {"schedule.base_lr", "0.3"},
    {"schedule.base_batch", "100"},
    {"schedule.lr_scaling", "none"},
    {"schedule.warmup", "1ep"},
    {"schedule.warmup_shape", "cosine"},
    {"schedule.warmup_start_factor", "0.2"},
    {"schedule.warmup_start_lr", "0.001"},
    {"schedule.warmup_fixed_in", "steps"},
    {"schedule.long_warmup", "true"},
    {"schedule.warmup_until", "training-loss"},
    {"schedule.warmup_bound", "0.5"},
    {"schedule.warmup_patience", "7"},
    {"schedule.warmup_min", "3ba"},
    {"schedule.warmup_momentum", "0.5"},
    {"schedule.decay", "linear"},
    {"schedule.min_lr_factor", "0.2"},
    {"schedule.decay_power", "2.0"},
    {"schedule.decay_factor", "0.5"},
    {"schedule.decay_every", "3ba"},
    {"schedule.decay_at", "[\"3ba\", \"7ba\"]"},
    {"schedule.cycles", "2"},
    {"schedule.timescale", "5ba"},
    {"schedule.cooldown", "5ba"},
    {"schedule.cooldown_shape", "1-sqrt"},
    {"schedule.stable_factor", "0.5"},
    {"schedule.settle", "4ba"},
    {"schedule.decay_metric", "accuracy"},
    {"schedule.decay_patience", "3"},
    {"schedule.decay_threshold", "0.01"},
    {"schedule.decay_cooldown", "2"},
    {"warm_start.from", "other"},
    {"warm_start.strategy", "warm"},
    {"warm_start.min_loaded", "0.7"},
    {"warm_start.rename", "[[\"a\", \"b\"]]"},
    {"warm_start.include", "[\"a*\"]"},
    {"warm_start.exclude", "[\"a*\"]"},
    {"warm_start.read", "each-node"},
    {"warm_start.load.weights", "reset"},
    {"warm_start.load.batch_norm", "reset"},
    {"warm_start.load.optimizer", "load"},
    {"warm_start.load.ema", "load"},
    {"warm_start.load.schedule", "continue"},
    {"warm_start.rewarm_factor", "0.5"},
    {"evaluation.every", "1ep"},
    {"evaluation.batch", "64"},
    {"evaluation.validation", "0.2"},
    {"evaluation.test", "0.2"},
    {"evaluation.split_by", ""},  // has one value
    {"evaluation.weights", "trained"},
    {"checkpoint.every", "1ep"},
    {"checkpoint.keep", "2"},
    {"checkpoint.keep_every", "7ba"},
    {"checkpoint.background", "false"},
    {"checkpoint.gather", "true"},
    {"checkpoint.verify", "true"},
    {"verdict.metric", "accuracy"},
    {"verdict.min_gain", "0.5"},
    {"verdict.max_forgetting", "0.5"},
    {"verdict.if_inconclusive", "keep-parent"},
    {"run.line", "other"},
    {"run.directory", "other"},
    {"run.duration", "1ep"},
    {"run.seed", "3"},
    {"run.reproducible", "fast"},
    {"run.threads", "3"},
    {"run.workers", "3"},
    {"run.deadline", "3min"},
    {"run.on_nan", "stop"},
    {"run.rollback_lr_factor", "0.25"},
    {"run.max_rollbacks", "2"},
    {"run.precision", "bfloat16"},
    {"run.tf32", "true"},
    {"run.diagnostics", "[\"noise-scale\"]"},
    {"run.log_every", "3ba"},
    {"run.check_every", "3ba"},
};

// What gives a key a meaning, by its name or by the value that it goes with, where kFullJob does not.
const std::map<std::string, std::string> kWith{
    {"batch.per_worker", "batch={per_worker=64}"},
    {"optimizer.max_grad_value", "optimizer={name=\"adam\"}"},
    {"evaluation.weights", "optimizer={ema_half_life=\"1ep\"}"},
    {"warm_start.load.ema", "optimizer={ema_half_life=\"1ep\"}"},
    {"warm_start.rewarm_factor", "schedule={base_lr=0.1, warmup=\"9ba\"}"},
    {"rollback", "run.on_nan=\"rollback\""},
    {"training-loss",
     "schedule={base_lr=0.1, warmup=\"9ba\", warmup_until=\"training-loss\", warmup_patience=5}"},
    {"schedule.warmup_until",
     "schedule={base_lr=0.1, warmup=\"9ba\", warmup_until=\"noise-scale\", warmup_patience=5}"},
    {"batch.start", "batch={global=64, start=8, ramp=\"1ep\"}"},
    {"batch.ramp", "batch={global=64, start=8, ramp=\"1ep\"}"},
    {"schedule.stable_factor", "schedule={base_lr=0.1, decay=\"wsd\", cooldown=\"9ba\", settle=\"3ba\"}"},
    {"plateau", "schedule={base_lr=0.1, decay=\"plateau\"}"},
    {"lars", "optimizer={name=\"lars\"}"},
    {"adam", "optimizer={name=\"adam\"}"},
    {"adamw", "optimizer={name=\"adamw\"}"},
    {"schedule.warmup_start_lr", "schedule={base_lr=0.1, warmup=\"5ba\"}"},
    {"schedule.decay_every", "schedule={base_lr=0.1, decay=\"step\", decay_every=\"5ba\"}"},
    {"step", "schedule={base_lr=0.1, decay=\"step\", decay_at=[\"5ba\"]}"},
    {"polynomial", "schedule={base_lr=0.1, decay=\"polynomial\"}"},
    {"inverse-sqrt", "schedule={base_lr=0.1, decay=\"inverse-sqrt\", warmup=\"9ba\"}"},
    {"wsd", "schedule={base_lr=0.1, decay=\"wsd\", cooldown=\"9ba\"}"}};

// What a resumed run may change: neither the model nor how it is judged depends on it.
const std::vector<std::string> kResumable{
    "evaluation.every",      "checkpoint.every",  "checkpoint.keep",   "checkpoint.keep_every",
    "checkpoint.background", "checkpoint.gather", "checkpoint.verify", "run.line",
    "run.directory",         "run.duration",      "run.workers",       "run.deadline",
    "run.log_every",         "run.check_every",   "run.diagnostics",   "schedule.long_warmup"};

TEST_F(KeysTest, EveryKeyIsWrittenAndPartOfTheDigestUnlessAResumedRunMayChangeIt) {
  for (const Key<Job>& key : job_keys()) {
    if (is_later(key)) continue;
    const std::string name = key.full_name();
    ASSERT_TRUE(kChanged.contains(name)) << name;
    if (kChanged.at(name).empty()) continue;

    std::vector<std::string> overrides;
    if (kWith.contains(name)) {
      overrides.push_back(kWith.at(name));
    } else if (!has_meaning(key, read(kFullJob))) {
      overrides.push_back(kWith.at(key.only.values.front()));
    }
    if (name == "optimizer.name") overrides.push_back("optimizer={}");  // momentum does not go with it
    if (name == "model.name") overrides.push_back("model={}");
    if (name.starts_with("data.") && kChanged.at(name).find('z') != std::string::npos)
      overrides.push_back("data={}");
    const bool loads = name.starts_with("warm_start.load.") || name == "warm_start.rewarm_factor";
    if (loads) overrides.push_back("warm_start.strategy=warm");
    if (name == "warm_start.rewarm_factor") overrides.push_back("warm_start.load.schedule=\"re-warm\"");
    if (name == "run.directory")
      overrides.push_back("warm_start.from=old");  // outside a line nothing is promoted
    const auto with = [&](const std::string& value) {
      auto all = overrides;
      all.push_back(name + "=" + value);
      return all;
    };
    Job before = read(kFullJob);
    if (!has_meaning(key, before) || kWith.contains(name) || loads || name == "run.directory")
      before = read(kFullJob, overrides);
    const Job after = read(kFullJob, with(kChanged.at(name)));
    EXPECT_NE(to_toml(after), to_toml(before)) << name;
    EXPECT_EQ(to_toml(read_job(write(to_toml(after), "again.toml"))), to_toml(after)) << name;
    EXPECT_EQ(job_digest(after) == job_digest(before), key.resumable) << name;
    EXPECT_EQ(key.resumable, std::ranges::count(kResumable, name) == 1) << name;
  }
}

// Defaults that one key sets for another are written out, and go with it.
TEST_F(KeysTest, AResolvedJobReadsBackToTheSame) {
  const std::string adam = "optimizer={name=\"adamw\"}";
  const std::vector<std::vector<std::string>> jobs{
      {},
      {"schedule={base_lr=0.1, decay=\"one-cycle\"}"},
      {adam, "schedule={base_lr=0.1, decay=\"one-cycle\", warmup=\"untuned\", warmup_shape=\"linear\"}"},
      {adam, "schedule={base_lr=0.1, decay=\"one-cycle\", warmup=\"radam\", warmup_shape=\"linear\"}"},
      {"schedule={base_lr=0.1, decay=\"one-cycle\", warmup=\"0sp\"}"},
      {"schedule={base_lr=0.1, warmup=\"0sp\", warmup_shape=\"cosine\", warmup_start_factor=0.1}"},
      {"schedule={base_lr=0.1, decay=\"constant\", min_lr_factor=0.0}"},
      {"schedule={base_lr=0.1, warmup=\"0.1dur\", warmup_shape=\"cosine\"}"}};
  for (const auto& overrides : jobs) {
    const std::string text = to_toml(read(kFullJob, overrides));
    EXPECT_EQ(to_toml(read_job(write(text, "again.toml"))), text)
        << (overrides.empty() ? "" : overrides.back());
  }
}

TEST_F(KeysTest, KeysOfBuiltInModelsAreThoseOfTheModelRoom) {
  std::set<std::string> rows, room;
  for (const Key<Job>& key : job_keys()) {
    if (key.section == kAnyModel && key.name != "name") rows.insert(key.name);
  }
  for (const std::string& model : built_in_models()) {
    for (const std::string& key : built_in_model_keys(model)) room.insert(key);
  }
  EXPECT_EQ(rows, room);
}

}  // namespace
}  // namespace rekindle
