// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <bit>
#include <cmath>

#include "core/names.h"
#include "core/text.h"
#include "job/keys.h"
#include "job/kinds.h"
#include "job/reader.h"

namespace rekindle {
namespace {

// What the rules look at.
struct Case {
  const toml::table& root;
  const Given& given;
  Job& job;
  Mistakes& mistakes;

  bool has(const std::string& name) const { return given.has(name); }
  void add(const std::string& name, const std::string& what) const {
    mistakes.add(given.where(name), name + " " + what);
  }

  // Where a missing key would stand: at its section, or where the file begins.
  toml::source_region section(const std::string& name) const {
    const toml::node* node = root.get(name);
    return node != nullptr ? node->source() : root.source();
  }
};

void exactly_one(const Case& it, const Key<Job>& key) {
  std::vector<std::string> given, quoted;
  bool slipped = it.given.slipped(key.section);
  for (const std::string& name : key.one_of) {
    const std::string full = key.section + "." + name;
    if (it.has(full)) given.push_back(full);
    slipped |= it.given.slipped(full);
    quoted.push_back("'" + name + "'");
  }
  for (size_t i = 1; i < given.size(); ++i) {
    it.add(given[i], "contradicts " + given[0] + ", expected only one of them");
  }
  if (!given.empty() || slipped) return;
  it.mistakes.add(it.section(key.section),
                  key.one_of.size() == 1
                      ? "[" + key.section + "] lacks " + quoted[0] + ", expected " + key.type
                      : "[" + key.section + "] lacks a key, expected one of " + enumerate(quoted));
}

void goes_with(const Case& it, const Key<Job>& key) {
  if (!it.has(key.full_name()) || !it.given.well(key.only.key) || has_meaning(key, it.job)) return;
  const size_t dot = key.only.key.rfind('.');
  const std::string value =
      find_key(job_keys(), key.only.key.substr(0, dot), key.only.key.substr(dot + 1))->print(it.job);
  it.add(key.full_name(), "does not go with " + key.only.key + " = " + value + ", expected it only with " +
                              either(key.only.values));
}

void data_kind(const Case& it) {
  const auto& increments = it.job.data.increments;
  const auto has_path = [](const IncrementOptions& increment) { return !increment.path.empty(); };
  if (increments.empty()) return;  // told by another rule
  const bool paths = std::ranges::all_of(increments, has_path);
  if (!paths && std::ranges::any_of(increments, has_path)) {
    return it.add("data.increments",
                  "mixes formats, expected all with 'path' or all with 'images' and 'labels'");
  }
  const std::string kind = paths ? "safetensors" : "idx";
  if (!it.has("data.kind")) {
    it.job.data.kind = kind;
  } else if (it.given.well("data.kind") && it.job.data.kind != kind) {
    it.add("data.kind", "is " + quote(it.job.data.kind) + ", expected " + quote(kind) +
                            " as the increments have " + (paths ? "'path'" : "'images' and 'labels'"));
  }
}

void optimizer(const Case& it) {
  OptimizerOptions& options = it.job.optimizer;
  const bool momentum_known = it.given.well("optimizer.momentum") && !it.given.slipped("optimizer.momentum");
  if (options.nesterov && options.momentum == 0 && momentum_known && options.name == "sgd") {
    it.add("optimizer.nesterov", "is true without momentum, expected optimizer.momentum > 0");
  }
  if (options.max_grad_norm > 0 && options.max_grad_value > 0)
    it.add("optimizer.max_grad_value", "contradicts optimizer.max_grad_norm, expected only one of them");
  EvaluationOptions& evaluation = it.job.evaluation;
  const bool keeps_average = !options.ema_half_life.is_zero();
  if (!it.has("evaluation.weights")) evaluation.averaged = keeps_average;
  if (evaluation.averaged && !keeps_average && !it.given.slipped("optimizer.ema_half_life"))
    it.add("evaluation.weights", "is \"averaged\", expected optimizer.ema_half_life with it");
  // PyTorch's defaults differ, and the papers'.
  if (!it.has("optimizer.weight_decay") && options.name == "adamw") options.weight_decay = 0.01;
  if (!it.has("optimizer.momentum") && options.name == "lars") options.momentum = 0.9;
  if (!it.has("optimizer.eps") && options.name == "lamb") options.eps = 1e-6;
}

// A child whose warm-up starts at its parent's last rate.
bool warms_up_again(const Case& it) {
  return it.job.warm_start.schedule == CarrySchedule::kRewarm;
}

void needs_validation(const Case& it, const std::string& key) {
  if (it.job.split.validation > 0 || it.given.slipped("evaluation.validation")) return;
  it.add(key, "looks at validation data, expected evaluation.validation > 0 with it");
}

// Keys of the schedule that set each other's defaults or exclude each other.
void schedule_keys(const Case& it) {
  ScheduleOptions& options = it.job.schedule;
  if (it.has("schedule.warmup_start_lr") && options.warmup_start_factor > 0)
    it.add("schedule.warmup_start_lr", "contradicts schedule.warmup_start_factor, expected only one of them");
  if (options.decay == Decay::kOneCycle) {
    if (!it.has("schedule.warmup")) options.warmup = {0.3, Unit::kShare};
    if (!it.has("schedule.warmup_shape")) options.warmup_shape = WarmupShape::kCosine;
    if (!it.has("schedule.warmup_start_factor") && !options.warmup_start_lr && !warms_up_again(it) &&
        options.warmup_rule == WarmupRule::kLength)
      options.warmup_start_factor = 0.04;
    if (!it.has("schedule.min_lr_factor")) options.min_lr_factor = 4e-6;
  }
  if (options.decay == Decay::kConstant && options.min_lr_factor > 0 && it.given.well("schedule.decay") &&
      !it.given.slipped("schedule.decay"))
    it.add("schedule.min_lr_factor", "is where a decay ends, expected schedule.decay with it");
  if (!it.given.well("schedule.decay") || !it.has("schedule.decay")) return;
  const bool every = it.has("schedule.decay_every");
  const bool at =
      it.has("schedule.decay_at") && !(options.decay_at.empty() && it.given.well("schedule.decay_at"));
  if (options.decay == Decay::kStep && every == at) {
    it.add(at ? "schedule.decay_at" : "schedule.decay",
           at ? "contradicts schedule.decay_every, expected only one of them"
              : "is \"step\", expected schedule.decay_every or schedule.decay_at with it");
  }
  if (options.decay == Decay::kExponential && !every)
    it.add("schedule.decay", "is \"exponential\", expected schedule.decay_every with it");
  if (options.decay == Decay::kWsd && !it.has("schedule.cooldown"))
    it.add("schedule.decay", "is \"wsd\", expected schedule.cooldown with it");
  if (options.decay == Decay::kWsd && options.stable_factor < 1 && options.settle.is_zero())
    it.add("schedule.stable_factor", "is below 1, expected schedule.settle with it");
  if (options.decay == Decay::kWsd && options.stable_factor < options.min_lr_factor)
    it.add("schedule.stable_factor", "is below schedule.min_lr_factor, expected at least as much");
  if (options.decay == Decay::kPlateau) {
    needs_validation(it, "schedule.decay");
    if (options.decay_factor >= 1)
      it.add("schedule.decay_factor", "is not below 1, which a plateau does not fall with, expected less");
  }
}

// Keys of a warm-up that a measure ends.
void warmup_end(const Case& it) {
  const ScheduleOptions& options = it.job.schedule;
  if (options.warmup_until == WarmupUntil::kLength || !it.given.well("schedule.warmup_until")) return;
  const bool validation = options.warmup_until == WarmupUntil::kValidationLoss ||
                          options.warmup_until == WarmupUntil::kValidationAccuracy;
  if (validation) needs_validation(it, "schedule.warmup_until");
  if (!options.warmup_bound && options.warmup_patience == 0)
    it.add("schedule.warmup_until",
           "says what ends the warm-up, expected schedule.warmup_bound or schedule.warmup_patience with it");
  if (options.warmup_until == WarmupUntil::kValidationAccuracy && options.warmup_bound.value_or(0) > 1)
    it.add("schedule.warmup_bound", "is no accuracy, expected a share of the samples: 0.8 is 80 %");
  if (options.warmup.is_zero())
    it.add("schedule.warmup_until",
           "says what ends the warm-up, expected a length as schedule.warmup with it, which it does not go "
           "beyond");
  if (options.warmup_min.unit == options.warmup.unit && options.warmup_min.value > options.warmup.value)
    it.add("schedule.warmup_min", "is longer than schedule.warmup, expected at most as long");
}

// What momentum moves to.
void warmup_momentum(const Case& it) {
  const ScheduleOptions& options = it.job.schedule;
  const OptimizerOptions& optimizer = it.job.optimizer;
  if (!options.warmup_momentum || !it.given.well("optimizer.name")) return;
  if (!has_betas(optimizer.name) && optimizer.momentum == 0)
    it.add("schedule.warmup_momentum", "moves momentum, expected optimizer.momentum > 0 or betas with it");
  if (options.warmup.is_zero())
    it.add("schedule.warmup_momentum",
           "moves momentum in the warm-up, expected a length as schedule.warmup with it");
}

// Keys that say how a warm-up rises, where there is none or it rises by a rule of its own.
void warmup_without_effect(const Case& it) {
  const ScheduleOptions& options = it.job.schedule;
  if (!it.given.well("schedule.warmup") || it.given.slipped("schedule.warmup")) return;
  const bool by_rule = options.warmup_rule != WarmupRule::kLength;
  const bool none = !by_rule && options.warmup.is_zero() && !it.has("schedule.warmup");
  const std::pair<const char*, bool> others[] = {
      {"schedule.warmup_start_factor", options.warmup_start_factor > 0},
      {"schedule.warmup_start_lr", options.warmup_start_lr.has_value()},
      {"schedule.warmup_fixed_in", options.warmup_fixed_in != WarmupFixedIn::kSamples},
      {"schedule.warmup_shape", none && options.warmup_shape != WarmupShape::kLinear}};
  for (const auto& [key, given] : others) {
    if (!given || !it.has(key)) continue;
    if (none) it.add(key, "is about a warm-up, expected schedule.warmup with it");
    if (by_rule) it.add(key, "does not go with a warm-up by rule, which is all said by Adam's constants");
  }
  if (options.warmup_fixed_in == WarmupFixedIn::kSteps && it.job.run.duration.is_time())
    it.add("schedule.warmup_fixed_in",
           "is \"steps\", expected a run.duration in epochs, steps or samples with it");
}

void warmup_keys(const Case& it) {
  warmup_without_effect(it);
  const ScheduleOptions& options = it.job.schedule;
  const bool by_rule = options.warmup_rule != WarmupRule::kLength;
  const bool start =
      options.warmup_start_factor > 0 || options.warmup_start_lr.value_or(0) > 0 || warms_up_again(it);
  const bool lasts = !options.warmup.is_zero() && it.given.well("schedule.warmup");
  if (lasts && options.warmup_shape == WarmupShape::kConstant && !start)
    it.add("schedule.warmup_shape", "is \"constant\", expected a schedule.warmup_start_factor > 0 with it");
  if (lasts && options.warmup_shape == WarmupShape::kExponential && !start)
    it.add("schedule.warmup_shape",
           "is \"exponential\", expected a schedule.warmup_start_factor > 0 with it");
  if (!by_rule || !it.given.well("schedule.warmup")) return;
  const std::string rule = options.warmup_rule == WarmupRule::kUntuned ? "\"untuned\"" : "\"radam\"";
  if (!has_betas(it.job.optimizer.name) && it.given.well("optimizer.name"))
    it.add("schedule.warmup", "is " + rule + ", expected it only with an optimizer that has betas");
  const bool both = options.warmup_rule == WarmupRule::kUntuned;
  if (options.warmup_shape == WarmupShape::kLinear ||
      (both && options.warmup_shape == WarmupShape::kExponential))
    return;
  it.add("schedule.warmup", "is " + rule + ", expected schedule.warmup_shape = \"linear\"" +
                                (both ? " or \"exponential\"" : "") + " with it");
}

void schedule(const Case& it) {
  const ScheduleOptions& options = it.job.schedule;
  const auto needs_batch = [&](const char* key, bool scales) {
    if (!scales || options.base_batch > 0 || it.has("schedule.base_batch") ||
        it.given.slipped("schedule.base_batch"))
      return;
    it.add(key, "needs schedule.base_batch, the global batch that base_lr was tuned at");
  };
  needs_batch("schedule.lr_scaling", options.lr_scaling != LrScaling::kNone);
  needs_batch("schedule.warmup_fixed_in", options.warmup_fixed_in == WarmupFixedIn::kSteps);
  if (options.lr_scaling == LrScaling::kAdamSqrt && !has_betas(it.job.optimizer.name) &&
      it.given.well("optimizer.name"))
    it.add("schedule.lr_scaling", "is \"adam-sqrt\", expected it only with an optimizer that has betas");
  schedule_keys(it);
  warmup_keys(it);
  warmup_end(it);
  warmup_momentum(it);
  // What else a warm-up must fit depends on the data: the schedule looks at it again.
  const Length &warmup = options.warmup, &duration = it.job.run.duration;
  if (warmup.is_zero() || !it.has("run.duration") || !it.given.well("run.duration")) return;
  const bool may_be_over =
      it.job.warm_start.schedule == CarrySchedule::kContinue || options.warmup_until != WarmupUntil::kLength;
  if (warmup.is_time() != duration.is_time() && warmup.unit != Unit::kShare) {
    it.add("schedule.warmup",
           "is " + quote(to_string(warmup)) + " in a run of " + quote(to_string(duration)) +
               ", expected both as times, both as samples, or a share such as \"0.06dur\"");
  } else if (!may_be_over && warmup.unit == duration.unit && warmup.value > duration.value) {
    it.add("schedule.warmup", "is longer than run.duration, expected at most " + quote(to_string(duration)));
  }
}

// A batch that grows.
void batch(const Case& it) {
  const BatchOptions& options = it.job.batch;
  const bool start = it.has("batch.start"), ramp = it.has("batch.ramp");
  if (start != ramp)
    it.add(start ? "batch.start" : "batch.ramp",
           start ? "is where the batch starts to grow, expected batch.ramp with it"
                 : "is how long the batch grows, expected batch.start with it");
  if (start && it.has("batch.per_worker"))
    it.add("batch.start", "contradicts batch.per_worker, expected batch.global with it");
  if (start && options.start > options.global && it.given.well("batch.global") && it.has("batch.global"))
    it.add("batch.start", "is more than batch.global, expected at most as much");
  if (ramp && options.ramp.unit != Unit::kSamples && options.ramp.unit != Unit::kEpochs &&
      it.given.well("batch.ramp"))
    it.add("batch.ramp", "is " + quote(to_string(options.ramp)) + ", expected samples or epochs");
  if (!ramp) return;
  // Steps from the beginning are the small ones; those from anywhere else would be counted by the wrong size.
  const ScheduleOptions& schedule = it.job.schedule;
  const std::pair<const char*, const Length&> lengths[] = {
      {"schedule.decay_every", schedule.decay_every},
      {"schedule.timescale", schedule.timescale},
      {"schedule.settle", schedule.settle},
      {"schedule.cooldown", schedule.cooldown},
      {"optimizer.ema_half_life", it.job.optimizer.ema_half_life}};
  for (const auto& [name, length] : lengths) {
    if (length.unit != Unit::kBatches || length.is_zero() || !it.given.well(name)) continue;
    it.add(name, "has " + quote(to_string(length)) +
                     ", and with batch.ramp steps grow, expected samples, epochs or a share");
  }
}

// With batch.per_worker a step has another size on another number of workers, and a resumed run may have one.
void steps_that_change(const Case& it) {
  if (it.job.batch.per_worker == 0) return;
  const ScheduleOptions& schedule = it.job.schedule;
  std::vector<std::pair<std::string, Length>> lengths{
      {"run.duration", it.job.run.duration},
      {"schedule.warmup", schedule.warmup},
      {"schedule.warmup_min", schedule.warmup_min},
      {"schedule.decay_every", schedule.decay_every},
      {"schedule.timescale", schedule.timescale},
      {"schedule.settle", schedule.settle},
      {"schedule.cooldown", schedule.cooldown},
      {"optimizer.ema_half_life", it.job.optimizer.ema_half_life}};
  for (const Length& length : schedule.decay_at) lengths.emplace_back("schedule.decay_at", length);
  for (const GroupOptions& group : it.job.optimizer.groups)
    lengths.emplace_back("optimizer.groups", group.unfreeze_at);
  for (const auto& [name, length] : lengths) {
    if (length.unit != Unit::kBatches || length.is_zero() || !it.given.well(name)) continue;
    it.add(name, "has " + quote(to_string(length)) +
                     ", and with batch.per_worker the size of a step follows the number of workers, expected "
                     "samples, epochs or a share");
  }
}

// The clock of any-world is samples, and its tree is complete.
void any_world(const Case& it) {
  if (it.job.run.reproducible != Reproducible::kAnyWorld) return;
  const int virtual_workers = it.job.batch.virtual_workers;
  if (!std::has_single_bit(static_cast<unsigned>(virtual_workers))) {
    it.add("batch.virtual_workers", "is " + std::to_string(virtual_workers) + ", expected a power of two");
  } else if (it.job.run.workers > virtual_workers) {
    it.add("run.workers", "is more than batch.virtual_workers = " + std::to_string(virtual_workers) +
                              ", expected at most as many");
  }
  if (it.has("batch.per_worker")) {
    it.add("batch.per_worker",
           "makes another batch of another number of workers, expected batch.global with run.reproducible = "
           "\"any-world\"");
  }
  const std::pair<const char*, const Length&> lengths[] = {
      {"run.duration", it.job.run.duration},
      {"schedule.warmup", it.job.schedule.warmup},
      {"schedule.warmup_min", it.job.schedule.warmup_min},
      {"evaluation.every", it.job.evaluation.every}};
  const Length& every = it.job.checkpoint.every;
  if (it.job.run.on_nan == OnNan::kRollback && every.is_time() && it.given.well("checkpoint.every"))
    it.add("checkpoint.every",
           "is " + quote(to_string(every)) +
               ", expected samples, steps or epochs: with run.on_nan = \"rollback\" the run "
               "goes back there, and with run.reproducible = \"any-world\" no clock decides");
  for (const auto& [name, length] : lengths) {
    if (!length.is_time() || !it.given.well(name)) continue;
    it.add(name,
           "is " + quote(to_string(length)) +
               ", expected samples, steps or epochs: with run.reproducible = \"any-world\" no clock decides");
  }
}

void warm_start(const Case& it) {
  WarmStartOptions& options = it.job.warm_start;
  if (options.from == names::kPromoted && !it.job.run.directory.empty()) {
    it.add("warm_start.from",
           "is \"promoted\" but run.directory is in no line, expected a path, or run.line");
  }
  const bool goes_on = options.schedule != CarrySchedule::kReset;
  if (goes_on && options.from.empty())
    it.add("warm_start.load.schedule", "goes on with a parent's schedule, expected warm_start.from with it");
  if (warms_up_again(it)) {
    const char* const why =
        "contradicts warm_start.load.schedule = \"re-warm\", which starts at the parent's rate";
    if (it.job.schedule.warmup_start_factor > 0) it.add("schedule.warmup_start_factor", why);
    if (it.job.schedule.warmup_start_lr) it.add("schedule.warmup_start_lr", why);
    if (it.job.schedule.warmup.is_zero())
      it.add("warm_start.load.schedule", "is \"re-warm\", expected a length as schedule.warmup with it");
  }
  const auto frozen = [](const GroupOptions& group) { return group.freeze; };
  if (options.ema == Carry::kLoad && std::ranges::any_of(it.job.optimizer.groups, frozen))
    it.add("warm_start.load.ema",
           "is \"load\", and of a parameter that a group freezes there is only one, expected \"reset\"");
  if (options.ema == Carry::kLoad && it.job.optimizer.ema_half_life.is_zero())
    it.add("warm_start.load.ema", "is \"load\", expected optimizer.ema_half_life with it");
  const std::pair<const char*, bool> taken[] = {{"optimizer", options.optimizer == Carry::kLoad},
                                                {"ema", options.ema == Carry::kLoad},
                                                {"schedule", goes_on}};
  if (options.strategy == Strategy::kCold && it.given.well("warm_start.strategy")) {
    for (const auto& [key, takes] : taken) {
      if (takes)
        it.add(
            std::string("warm_start.load.") + key,
            "takes from the parent, and with warm_start.strategy = \"cold\" nothing is, expected \"reset\"");
    }
    return;
  }
  // What was measured on weights means nothing without them.
  if (options.weights == Carry::kLoad) return;
  if (!it.has("warm_start.load.batch_norm")) options.batch_norm = Carry::kReset;
  if (options.batch_norm == Carry::kLoad) {
    it.add("warm_start.load.batch_norm",
           "is \"load\" without the weights that the statistics are of, expected \"reset\"");
  }
  for (const auto& [key, takes] : taken) {
    if (takes)
      it.add(std::string("warm_start.load.") + key,
             "takes from the parent without the weights that it belongs to, expected \"reset\"");
  }
}

void checkpoint(const Case& it) {
  for (const auto& [key, carry] :
       {std::pair("optimizer", it.job.warm_start.optimizer), {"ema", it.job.warm_start.ema}}) {
    if (it.job.checkpoint.gather && carry == Carry::kLoad)
      it.add("checkpoint.gather", std::string("is true with warm_start.load.") + key +
                                      " = \"load\", which every worker reads for itself, expected only one "
                                      "of them");
  }
  const Length& length = it.job.checkpoint.keep_every;
  const bool share_of_time =
      length.unit == Unit::kShare && it.job.run.duration.is_time() && !length.is_zero();
  if (!length.is_time() && !share_of_time) return;
  it.add("checkpoint.keep_every",
         "is " + quote(to_string(length)) +
             ", expected samples, steps, epochs, or a share of a run that does not end by the clock");
}

// Of accuracy both are shares, and a percentage would open the gate or close it for good.
void verdict(const Case& it) {
  const VerdictOptions options = it.job.verdict.value_or(VerdictOptions{});
  if (options.metric != "accuracy") return;
  const char* const what = "is no difference of accuracies, expected a share below 1: 0.01 is one percent";
  if (options.max_forgetting >= 1) it.add("verdict.max_forgetting", what);
  if (std::abs(options.min_gain) >= 1) it.add("verdict.min_gain", what);
}

void split(const Case& it) {
  if (it.job.split.validation + it.job.split.test < 1) return;
  it.add("evaluation.test", "and evaluation.validation leave nothing to train on, expected a sum below 1");
}

}  // namespace

void check_rules(const toml::table& root, const Given& given, Job& job, Mistakes& mistakes) {
  const Case it{root, given, job, mistakes};
  for (const Key<Job>& key : job_keys()) {
    if (!key.one_of.empty() && key.one_of.front() == key.name) exactly_one(it, key);
    goes_with(it, key);
  }
  data_kind(it);
  optimizer(it);
  schedule(it);
  batch(it);
  steps_that_change(it);
  any_world(it);
  warm_start(it);
  checkpoint(it);
  verdict(it);
  split(it);
}

}  // namespace rekindle
