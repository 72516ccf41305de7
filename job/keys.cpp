// SPDX-License-Identifier: Apache-2.0
#include "job/keys.h"

#include <algorithm>
#include <cctype>

#include "job/kinds.h"
#include "job/section.h"

namespace rekindle {
namespace {

using Path = std::filesystem::path;
using Texts = std::vector<std::string>;

constexpr Bounds kBetween0And1{.low = 0, .high = 1, .low_taken = false, .high_taken = false};

// The table being filled.
struct Table {
  std::vector<Key<Job>> rows;
  Job defaults;

  Table() {
    defaults.model = ModelOptions(defaults.model.name(), built_in_model_defaults(defaults.model.name()));
    defaults.verdict.emplace();
  }

  template <typename Options>
  auto section(std::string name, Options Job::*member) {
    const auto access = [member](auto& job) -> auto& {
      return job.*member;
    };
    return Section<Job, decltype(access)>(rows, defaults, std::move(name), access);
  }
  template <typename Options>
  auto section(std::string name, std::optional<Options> Job::*member) {
    const auto access = [member](auto& job) -> auto& {
      return *(job.*member);
    };
    return Section<Job, decltype(access)>(rows, defaults, std::move(name), access);
  }
};

// A key of a built-in model, kept by name; the default, and with it the type, is the model room's.
template <typename T>
void add_model_key(Table& table, const std::string& model, const std::string& name, Kind<T> kind,
                   std::string meaning) {
  const std::string fallback = in_code(kind.print(std::get<T>(built_in_model_defaults(model).at(name))));
  const auto nothing = [](const ModelOptions&) { return T{}; };
  const auto set = [name](ModelOptions& options, T value) {
    auto values = options.values();
    values[name] = std::move(value);
    options = ModelOptions(options.name(), std::move(values));
  };
  kind.print = [](const T&) { return ""; };  // the writer writes the keys of any model
  table.section(kAnyModel, &Job::model)
      .key(name, kind, nothing, set, meaning + "; only with `" + model + "`")
      .default_is(fallback);
}

void add_model(Table& table) {
  Kind<std::string> name = text("a name");
  name.not_built = models_not_built();
  name.read = [read = name.read](const Item& item) -> std::optional<std::string> {
    std::optional<std::string> value = read(item);
    if (value && std::ranges::count(models_not_built(), *value) > 0) {
      return item.not_built(either(built_in_models()) + " or a model of your own worker");
    }
    return value;
  };
  const auto get = [](const ModelOptions& options) { return options.name(); };
  const auto set = [](ModelOptions& options, std::string value) {
    options = ModelOptions(value, options.values());
  };
  table.section(kAnyModel, &Job::model)
      .key("name", name, get, set,
           "`mlp`, `logistic`, `resnet18`, or a model of your own worker, which reads keys of its own");
  add_model_key(table, "mlp", "hidden", list_of(integer<int64_t>(1), "a list of integers >= 1"),
                "widths of the hidden layers");
  add_model_key(table, "mlp", "dropout", number(from_to_below(0, 1)),
                "share of activations dropped in training");
  add_model_key(table, "mlp", "batch_norm", boolean(), "normalises each hidden layer over the batch");
}

// A list of names that is a set: its order does not matter, so it is kept and written in one.
template <typename Options>
Kind<Options> flags(std::vector<std::pair<std::string, bool Options::*>> all) {
  using Flag = bool Options::*;
  const auto words = choice<Flag>(all);
  const auto names = list_of(words, "a list of " + words.type);
  const auto read = [words, names](const Item& item) -> std::optional<Options> {
    const auto given = names.read(item);
    if (!given) return std::nullopt;
    Options options;
    for (const Flag flag : *given) {
      if (options.*flag) return item.refuse("names " + words.print(flag) + " twice");
      options.*flag = true;
    }
    return options;
  };
  const auto print = [names, all](const Options& options) {
    std::vector<Flag> given;
    for (const auto& [name, flag] : all) {
      if (options.*flag) given.push_back(flag);
    }
    return names.print(given);
  };
  return {names.type, read, print};
}

void add_data(Table& table) {
  auto data = table.section("data", &Job::data);
  const Texts sources{"increments", "path", "manifest"};
  const Kind<std::vector<IncrementOptions>> increments{"a list of tables or paths", read_increments,
                                                       print_increments};
  const auto no_path = [](const DataOptions&) { return Path(); };  // it is written as an increment
  const auto set_path = [](DataOptions& options, Path file) {
    options.increments.assign(1, {});
    options.increments.front().path = std::move(file);
  };

  data.key("kind", choice({"idx", "safetensors"}, {"cifar", "csv", "jsonl", "tokens", "parquet"}),
           &DataOptions::kind, "format of the files")
      .default_is("`\"safetensors\"` where increments have `path`, else `\"idx\"`");
  data.key("increments", increments, &DataOptions::increments,
           "the data in order of arrival: tables with the keys of `data.increments`, or paths of safetensors "
           "files")
      .one_of(sources);
  data.key("path", path(), no_path, set_path, "one safetensors file, as the only increment").one_of(sources);
  data.later<Path>("manifest", path(), {}, "a TOML file that lists the increments").one_of(sources);
  data.later<std::string>("use", choice({"all"}, {"new", "last:N"}), "all",
                          "which increments are trained on");
  data.key("shuffle", boolean(), &DataOptions::shuffle,
           "a new order for every epoch, from the seed; false: file order");
  data.key(
      "augment", flags<AugmentOptions>({{"crop", &AugmentOptions::crop}, {"flip", &AugmentOptions::flip}}),
      &DataOptions::augment,
      "changes to training images, drawn anew for each sample and epoch: `crop` cuts an image of the same "
      "size out of it and a frame of 4 zero pixels, `flip` mirrors one in two, left to right");
}

void add_data_tables(Table& table) {
  auto normalize = table.section("data.normalize", &Job::data);
  normalize.key("mean", list_of_one(number(), "a list of one number"), &DataOptions::mean,
                "subtracted, after bytes are scaled to 0..1");
  normalize.key("std", list_of_one(number(above(0)), "a list of one number > 0"), &DataOptions::std,
                "what is left is divided by this");

  auto replay = table.section("data.replay", &Job::data);
  replay.later<double>("share", number(from_to(0, 1)), 0, "share of old samples in each batch");
  replay.later<std::string>("by", choice({"uniform"}), "uniform", "how old samples are drawn");
}

// One that may be left out, and is then not written.
Kind<Length> optional_length(const LengthRule& rule = kInterval) {
  Kind<Length> kind = length(rule);
  kind.print = [print = kind.print](const Length& value) { return value.is_zero() ? "" : print(value); };
  return kind;
}

void add_batch(Table& table) {
  auto batch = table.section("batch", &Job::batch);
  const Texts sizes{"global", "per_worker"};
  Kind<int64_t> count = integer<int64_t>(1);
  count.print = [](const int64_t& value) { return value > 0 ? std::to_string(value) : ""; };
  const auto given = [](const BatchOptions& options) { return options.per_worker > 0 ? 0 : options.global; };
  const auto set = [](BatchOptions& options, int64_t value) { options.global = value; };
  batch
      .key("global", count, given, set,
           "samples of one optimizer step, over all workers; accumulation is worked out")
      .one_of(sizes);
  batch
      .key("per_worker", count, &BatchOptions::per_worker,
           "samples of one step and worker: the global batch, and all that is scaled with it, follows the "
           "number of workers, of a resumed run too")
      .one_of(sizes);
  batch.key("start", count, &BatchOptions::start,
            "the global batch at first: it grows from there, in steps of this size, to `global`; the rate is "
            "that of `global` all along");
  batch.key("ramp",
            optional_length(
                {.type = "a length > 0 in samples or epochs", .zero = false, .share = false, .time = false}),
            &BatchOptions::ramp, "how long it grows, in samples or epochs; with `start`");
  batch.key("microbatch", integer<int64_t>(0), &BatchOptions::microbatch,
            "most samples in one forward pass; 0: a worker's whole share");
  batch.key(
      "virtual_workers", integer<int>(1, 1 << 16), &BatchOptions::virtual_workers,
      "parts that the global batch is cut in, for `any-world`: a power of two, as many as workers at least");
}

void add_optimizer(Table& table) {
  auto optimizer = table.section("optimizer", &Job::optimizer);
  using Betas = std::pair<double, double>;
  const auto get_betas = [](const OptimizerOptions& options) { return Betas(options.beta1, options.beta2); };
  const auto set_betas = [](OptimizerOptions& options, Betas betas) {
    options.beta1 = betas.first;
    options.beta2 = betas.second;
  };

  const char* const name = "optimizer.name";
  optimizer.key("name", choice({"sgd", "adam", "adamw", "lars", "lamb"}), &OptimizerOptions::name,
                "the update rule");
  optimizer
      .key("momentum", number(from_to_below(0, 1)), &OptimizerOptions::momentum,
           "share of the last update that is kept")
      .default_is("`0.9` with `lars`, else `0.0`")
      .only_with(name, {"sgd", "lars"});
  optimizer.key("nesterov", boolean(), &OptimizerOptions::nesterov, "Nesterov's momentum; needs `momentum`")
      .only_with(name, {"sgd"});
  optimizer
      .key("betas", pair_of(number(from_to_below(0, 1)), "a list of two numbers in [0, 1)"), get_betas,
           set_betas, "decay of the averages of gradients and of their squares")
      .only_with(name, {"adam", "adamw", "lamb"});
  optimizer.key("eps", number(above(0)), &OptimizerOptions::eps, "added to the divisor")
      .default_is("`1e-06` with `lamb`, else `1e-08`")
      .only_with(name, {"adam", "adamw", "lamb"});
  optimizer
      .key("trust_coefficient", number(above(0)), &OptimizerOptions::trust_coefficient,
           "of a parameter's norm, over that of its gradient: the share of the rate that it gets")
      .only_with(name, {"lars"});
  optimizer
      .key("weight_decay", number(at_least(0)), &OptimizerOptions::weight_decay,
           "pull of every weight towards zero")
      .default_is("`0.01` with `adamw`, else `0.0`");
  optimizer
      .key("no_decay", maybe(list_of(text("a glob"), "a list of globs")), &OptimizerOptions::no_decay,
           "globs over parameter names that weight decay leaves alone, and `lars` and `lamb` do not scale; "
           "`[]`: "
           "none")
      .default_is("parameters of at most one dimension");
  optimizer.key(
      "groups", Kind<std::vector<GroupOptions>>{"a list of tables", read_groups, print_groups},
      &OptimizerOptions::groups,
      "parameters that are trained otherwise, each with the keys of `optimizer.groups`; the first group "
      "that matches a parameter has it");
  optimizer.key("layer_decay", number({.low = 0, .high = 1, .low_taken = false}),
                &OptimizerOptions::layer_decay,
                "the rate of each layer is this share of that of the layer behind it");
  optimizer.key("max_grad_norm", number(at_least(0)), &OptimizerOptions::max_grad_norm,
                "gradients are scaled down to this norm; 0: never");
  optimizer.key("max_grad_value", number(at_least(0)), &OptimizerOptions::max_grad_value,
                "each element of a gradient is cut off at plus and minus this; 0: never");
  optimizer.key("ema_half_life",
                optional_length({.type = "a length > 0, not a time", .zero = false, .time = false}),
                &OptimizerOptions::ema_half_life,
                "an average of the weights is kept, in which they count half after so long");
}

// A length, or a rule that says one.
Kind<std::pair<WarmupRule, Length>> warmup_length() {
  const auto rules = choice<WarmupRule>({{"untuned", WarmupRule::kUntuned}, {"radam", WarmupRule::kRadam}});
  const Kind<Length> lengths = length();
  using Warmup = std::pair<WarmupRule, Length>;
  return {"a length, \"untuned\" or \"radam\"",
          [rules, lengths](const Item& item) -> std::optional<Warmup> {
            const auto* word = item.node.as_string();
            if (word != nullptr && (word->get() == "untuned" || word->get() == "radam"))
              return Warmup(*rules.read(item), {});
            if (word != nullptr && !word->get().empty() &&
                std::isalpha(static_cast<unsigned char>(word->get()[0])))
              return item.wrong("a length, \"untuned\" or \"radam\"",
                                did_you_mean(word->get(), {"untuned", "radam"}));
            const auto given = lengths.read(item);
            return given ? std::optional(Warmup(WarmupRule::kLength, *given)) : std::nullopt;
          },
          [rules, lengths](const Warmup& warmup) {
            return warmup.first == WarmupRule::kLength ? lengths.print(warmup.second)
                                                       : rules.print(warmup.first);
          }};
}

// A warm-up that a measure ends.
template <typename Schedule>
void add_warmup_end(Schedule& schedule) {
  const auto measures = choice<WarmupUntil>({{"length", WarmupUntil::kLength},
                                             {"training-loss", WarmupUntil::kTrainingLoss},
                                             {"validation-loss", WarmupUntil::kValidationLoss},
                                             {"validation-accuracy", WarmupUntil::kValidationAccuracy},
                                             {"noise-scale", WarmupUntil::kNoiseScale}});
  const char* const until = "schedule.warmup_until";
  schedule.key(
      "warmup_until", measures, &ScheduleOptions::warmup_until,
      "what ends the warm-up before its length does: a measure that gets to `warmup_bound`, or no better for "
      "`warmup_patience` looks. The decay starts at the rate that was reached, after a `constant` warm-up at "
      "the peak. The training loss is the running mean of about 50 steps; of the noise scale, no better "
      "means "
      "within a fifth of where it was");
  const std::vector<std::string> measured{"training-loss", "validation-loss", "validation-accuracy",
                                          "noise-scale"};
  schedule
      .key("warmup_bound", maybe(number()), &ScheduleOptions::warmup_bound,
           "of a loss: at most this; of accuracy and noise scale: at least")
      .only_with(until, measured);
  schedule
      .key("warmup_patience", integer<int64_t>(0), &ScheduleOptions::warmup_patience,
           "steps, or for validation data evaluations; 0: however many")
      .only_with(until, measured);
  schedule.key("warmup_min", optional_length(), &ScheduleOptions::warmup_min, "it does not end before")
      .only_with(until, measured);
}

void add_warmup(Table& table) {
  auto schedule = table.section("schedule", &Job::schedule);
  const auto shapes = choice<WarmupShape>({{"linear", WarmupShape::kLinear},
                                           {"exponential", WarmupShape::kExponential},
                                           {"cosine", WarmupShape::kCosine},
                                           {"constant", WarmupShape::kConstant}});
  using Warmup = std::pair<WarmupRule, Length>;
  const auto get = [](const ScheduleOptions& options) { return Warmup(options.warmup_rule, options.warmup); };
  const auto set = [](ScheduleOptions& options, Warmup warmup) {
    options.warmup_rule = warmup.first;
    options.warmup = warmup.second;
  };
  schedule.key("warmup", warmup_length(), get, set,
               "length of the warm-up; `untuned`: what Adam's beta2 asks for, 2/(1 - beta2) steps, or with "
               "`exponential` the factor 1 - exp(-(1 - beta2) t); `radam`: RAdam's rectification");
  schedule.key("warmup_shape", shapes, &ScheduleOptions::warmup_shape,
               "how the rate rises; `constant` stays where it starts, and then jumps");
  schedule.key("warmup_start_factor", number(from_to(0, 1)), &ScheduleOptions::warmup_start_factor,
               "where the warm-up starts, as a share of the peak");
  schedule.key("warmup_start_lr", maybe(number(at_least(0))), &ScheduleOptions::warmup_start_lr,
               "the same as a rate; instead of `warmup_start_factor`");
  schedule.key(
      "warmup_fixed_in",
      choice<WarmupFixedIn>({{"samples", WarmupFixedIn::kSamples}, {"steps", WarmupFixedIn::kSteps}}),
      &ScheduleOptions::warmup_fixed_in,
      "what stays of a warm-up in epochs or samples when the batch grows from `base_batch`: `steps` makes "
      "it longer in epochs, by as much as the batch grew");
  schedule
      .key("long_warmup", boolean(), &ScheduleOptions::long_warmup,
           "true: it may take more than half of the run, which `rekindle plan` refuses otherwise")
      .may_change_on_resume();
  add_warmup_end(schedule);
  schedule.key("warmup_momentum", maybe(number(kBetween0And1)), &ScheduleOptions::warmup_momentum,
               "where momentum, or Adam's beta1, starts; it is that of `[optimizer]` when the warm-up ends. "
               "`one-cycle` goes back to it");
}

void add_decay(Table& table) {
  auto schedule = table.section("schedule", &Job::schedule);
  const auto decays = choice<Decay>({{"constant", Decay::kConstant},
                                     {"cosine", Decay::kCosine},
                                     {"linear", Decay::kLinear},
                                     {"polynomial", Decay::kPolynomial},
                                     {"step", Decay::kStep},
                                     {"exponential", Decay::kExponential},
                                     {"inverse-sqrt", Decay::kInverseSqrt},
                                     {"wsd", Decay::kWsd},
                                     {"one-cycle", Decay::kOneCycle},
                                     {"plateau", Decay::kPlateau}});
  const auto cooldowns = choice<CooldownShape>({{"linear", CooldownShape::kLinear},
                                                {"cosine", CooldownShape::kCosine},
                                                {"1-sqrt", CooldownShape::k1Sqrt}});
  Kind<std::vector<Length>> moments = list_of(length(kInterval), "a list of lengths > 0");
  moments.print = [print = moments.print](const std::vector<Length>& list) {
    return list.empty() ? "" : print(list);
  };
  const char* const decay = "schedule.decay";
  schedule.key(
      "decay", decays, &ScheduleOptions::decay,
      "how the rate falls, from the end of the warm-up to the end of the run; `one-cycle` is a cosine up "
      "and a cosine down, and sets `warmup = \"0.3dur\"`, `warmup_shape = \"cosine\"`, "
      "`warmup_start_factor = 0.04` and `min_lr_factor = 4e-6` where they are not given; `plateau` falls "
      "when "
      "the validation data say so");
  schedule.key("min_lr_factor", number(from_to(0, 1)), &ScheduleOptions::min_lr_factor,
               "share of the peak where the decay ends, or under which it does not go");
  schedule.key("decay_power", number(above(0)), &ScheduleOptions::decay_power, "exponent of the fall")
      .only_with(decay, {"polynomial"});
  schedule
      .key("decay_factor", number({.low = 0, .high = 1, .low_taken = false}), &ScheduleOptions::decay_factor,
           "what the rate is multiplied by, at once or smoothly")
      .only_with(decay, {"step", "exponential", "plateau"});
  schedule
      .key("decay_every", optional_length(), &ScheduleOptions::decay_every,
           "how often, from the end of the warm-up")
      .only_with(decay, {"step", "exponential"});
  schedule
      .key("decay_at", moments, &ScheduleOptions::decay_at,
           "when, from the beginning of the run; instead of `decay_every`")
      .only_with(decay, {"step"});
  schedule
      .key("cycles", integer<int64_t>(1), &ScheduleOptions::cycles,
           "how often the fall starts anew at the peak")
      .only_with(decay, {"cosine"});
  schedule
      .key("timescale", optional_length(), &ScheduleOptions::timescale,
           "the rate falls as sqrt(timescale / (timescale + what was seen since the warm-up))")
      .default_is("`warmup`, where that is a length")
      .only_with(decay, {"inverse-sqrt"});
  schedule
      .key("cooldown", optional_length(), &ScheduleOptions::cooldown,
           "length of the last part, before which the rate stays at the peak")
      .only_with(decay, {"wsd"});
  schedule.key("cooldown_shape", cooldowns, &ScheduleOptions::cooldown_shape, "how the rate falls there")
      .only_with(decay, {"wsd"});
  schedule
      .key("stable_factor", number({.low = 0, .high = 1, .low_taken = false}),
           &ScheduleOptions::stable_factor, "share of the peak where the rate stays before the cooldown")
      .only_with(decay, {"wsd"});
  schedule
      .key("settle", optional_length(), &ScheduleOptions::settle,
           "length of the fall, a cosine, from the peak to there")
      .only_with(decay, {"wsd"});
  schedule
      .key("decay_metric",
           choice<DecayMetric>({{"loss", DecayMetric::kLoss}, {"accuracy", DecayMetric::kAccuracy}}),
           &ScheduleOptions::decay_metric, "of the validation data")
      .only_with(decay, {"plateau"});
  schedule
      .key("decay_patience", integer<int64_t>(0), &ScheduleOptions::decay_patience,
           "evaluations without a gain that are borne")
      .only_with(decay, {"plateau"});
  schedule
      .key("decay_threshold", number(from_to_below(0, 1)), &ScheduleOptions::decay_threshold,
           "a gain is more than this share of the best")
      .only_with(decay, {"plateau"});
  schedule
      .key("decay_cooldown", integer<int64_t>(0), &ScheduleOptions::decay_cooldown,
           "evaluations after a fall that do not count")
      .only_with(decay, {"plateau"});
}

void add_schedule(Table& table) {
  auto schedule = table.section("schedule", &Job::schedule);
  const auto scaling = choice<LrScaling>({{"none", LrScaling::kNone},
                                          {"linear", LrScaling::kLinear},
                                          {"sqrt", LrScaling::kSqrt},
                                          {"adam-sqrt", LrScaling::kAdamSqrt}});
  Kind<int64_t> batch = integer<int64_t>(1);
  batch.print = [](const int64_t& value) { return value > 0 ? std::to_string(value) : ""; };

  schedule.key("base_lr", number(above(0)), &ScheduleOptions::base_lr, "learning rate at `base_batch`")
      .required();
  schedule.key("base_batch", batch, &ScheduleOptions::base_batch,
               "global batch that `base_lr` was tuned at; needed where something is scaled with the batch");
  schedule.key(
      "lr_scaling", scaling, &ScheduleOptions::lr_scaling,
      "how the rate follows the global batch, which is k times `base_batch`: k, sqrt(k), or sqrt(k) with "
      "`betas` of 1 - k(1 - beta) and `eps`/sqrt(k)");
  add_warmup(table);
  add_decay(table);
}

void add_warm_start(Table& table) {
  auto start = table.section("warm_start", &Job::warm_start);
  const auto strategy = choice<Strategy>({{"cold", Strategy::kCold}, {"warm", Strategy::kWarm}},
                                         {"shrink-perturb", "fire", "dash", "reset-layers", "race"});
  start.key("from", path_or("promoted"), &WarmStartOptions::from,
            "the parent: the line's `promoted`, or a run, a checkpoint, a safetensors file or a folder of "
            "such; empty: none");
  start.key("strategy", strategy, &WarmStartOptions::strategy,
            "`warm` starts from the parent's weights; `cold` only compares with the parent");
  start.key("min_loaded", number(from_to(0, 1)), &WarmStartOptions::min_loaded,
            "share of the parameters that must come from the parent");
  const auto globs = list_of(text("a glob"), "a list of globs");
  start.later<double>("shrink_factor", number(), 1, "the parent's weights are multiplied by this");
  start.later<double>("noise_factor", number(), 0, "this much of a fresh initialisation is added");
  Kind<std::string> any_text = text("a text");
  any_text.read = [](const Item& item) -> std::optional<std::string> {  // one that may be empty
    const auto* value = item.node.as_string();
    return value == nullptr ? item.wrong("a text") : std::optional(value->get());
  };
  start.key("rename", list_of(pair_of(any_text, "a pair of texts"), "a list of pairs of texts"),
            &WarmStartOptions::rename,
            "rules that rewrite the parent's names, each in turn: a regular expression (ECMAScript's) and "
            "what replaces it, where `$1` is the first group, as in `[[\"^backbone[.]\", \"\"]]`");
  start.key("include", globs, &WarmStartOptions::include,
            "globs over the model's names: only these are loaded; "
            "`[]`: all");
  start.key("exclude", globs, &WarmStartOptions::exclude, "globs over the model's names: these start fresh");
  start.key(
      "read",
      choice<WeightReader>({{"rank0", WeightReader::kRankZero}, {"each-node", WeightReader::kEachNode}}),
      &WarmStartOptions::read,
      "who reads the parent: rank 0, which sends it, or every node, where all have it on a fast disk");

  start
      .key("rewarm_factor", number({.low = 0, .high = 1, .low_taken = false}),
           &WarmStartOptions::rewarm_factor, "the peak, as a share of that of a run from the beginning")
      .only_with("warm_start.load.schedule", {"re-warm"});

  auto load = table.section("warm_start.load", &Job::warm_start);
  const auto carry = choice<Carry>({{"load", Carry::kLoad}, {"reset", Carry::kReset}});
  load.key("weights", carry, &WarmStartOptions::weights, "the model's weights");
  load.key("batch_norm", carry, &WarmStartOptions::batch_norm, "running statistics of batch-norm")
      .default_is("as `weights`");
  load.key("optimizer", choice<Carry>({{"reset", Carry::kReset}, {"load", Carry::kLoad}}, {"rescale"}),
           &WarmStartOptions::optimizer, "moments of the optimizer, and its count of steps");
  load.key("ema", choice<Carry>({{"reset", Carry::kReset}, {"load", Carry::kLoad}}), &WarmStartOptions::ema,
           "`reset`: trained and averaged weights both start as the parent's model; `load`: each as it was");
  const auto begin = choice<CarrySchedule>({{"reset", CarrySchedule::kReset},
                                            {"continue", CarrySchedule::kContinue},
                                            {"re-warm", CarrySchedule::kRewarm}});
  load.key("schedule", begin, &WarmStartOptions::schedule,
           "`reset`: from its beginning; `continue`: from where the parent's stood; `re-warm`: from its "
           "beginning, but the warm-up starts at the parent's last rate");
}

void add_evaluation(Table& table) {
  auto evaluation = table.section("evaluation", &Job::evaluation);
  auto split = table.section("evaluation", &Job::split);
  const Kind<double> share = number(from_to_below(0, 1));
  evaluation
      .key("every", length(kInterval), &EvaluationOptions::every, "how often validation data are scored")
      .may_change_on_resume();
  evaluation.key("batch", integer<int64_t>(1), &EvaluationOptions::batch, "samples in one forward pass");
  evaluation
      .key("weights", choice<bool>({{"trained", false}, {"averaged", true}}), &EvaluationOptions::averaged,
           "which are scored, saved as the model, judged and promoted")
      .default_is("`\"averaged\"` with `optimizer.ema_half_life`, else `\"trained\"`");
  split.key("validation", share, &SplitOptions::validation,
            "share of the samples held out to watch the training");
  split.key("test", share, &SplitOptions::test, "share of the samples held out for the verdict");
  split.key("split_by", choice<SplitBy>({{"key", SplitBy::kKey}}, {"time"}), &SplitOptions::by,
            "`key`: by a digest of the sample, which never changes side when data are added");
}

void add_checkpoint(Table& table) {
  auto checkpoint = table.section("checkpoint", &Job::checkpoint);
  checkpoint.key("every", length(kInterval), &CheckpointOptions::every, "how often the run is saved")
      .may_change_on_resume();
  checkpoint.key("keep", integer<int>(2), &CheckpointOptions::keep, "checkpoints that stay")
      .may_change_on_resume();
  checkpoint
      .key("keep_every", length(), &CheckpointOptions::keep_every,
           "of each stretch this long the first checkpoint stays for good; `\"0sp\"`: none")
      .may_change_on_resume();
  checkpoint
      .key(
          "background", boolean(), &CheckpointOptions::background,
          "it is written from a copy in memory while the training goes on; false: the training waits, and no "
          "memory is taken for a copy")
      .may_change_on_resume();
  checkpoint
      .key("verify", boolean(), &CheckpointOptions::verify,
           "each is read back from the disk before it counts")
      .may_change_on_resume();
  checkpoint
      .key("gather", boolean(), &CheckpointOptions::gather,
           "for workers that share no file system: rank 0 writes everything, and reads it when the run is "
           "resumed")
      .may_change_on_resume();
}

void add_verdict(Table& table) {
  auto verdict = table.section("verdict", &Job::verdict);
  verdict.key("metric", choice({"accuracy", "loss"}), &VerdictOptions::metric,
              "what child and parent are compared by");
  verdict.key("min_gain", number(), &VerdictOptions::min_gain,
              "the lower bound of the gain on new test data must reach this");
  verdict.key("max_forgetting", number(at_least(0)), &VerdictOptions::max_forgetting,
              "the lower bound on old test data may fall by this");
  verdict.key("if_inconclusive", choice<bool>({{"keep-parent", false}, {"promote", true}}),
              &VerdictOptions::promote_if_inconclusive, "which way it falls where the bounds do not tell");
}

Kind<int> worker_count() {
  Kind<int> kind = integer<int>(1);
  kind.not_built = {"2..8"};
  kind.read = [read = kind.read](const Item& item) -> std::optional<int> {
    const auto* range = item.node.as_string();
    if (range != nullptr && range->get().find("..") != std::string::npos)
      return item.not_built("an integer >= 1");
    return read(item);
  };
  return kind;
}

void add_run(Table& table) {
  auto run = table.section("run", &Job::run);
  const Texts places{"line", "directory"};
  const auto modes = choice<Reproducible>({{"fast", Reproducible::kFast},
                                           {"same-world", Reproducible::kSameWorld},
                                           {"any-world", Reproducible::kAnyWorld}});
  const auto on_nan =
      choice<OnNan>({{"stop", OnNan::kStop}, {"skip", OnNan::kSkip}, {"rollback", OnNan::kRollback}});

  run.key("line", path(), &RunOptions::line, "a folder of runs of one model, each in a directory of its own")
      .one_of(places)
      .may_change_on_resume();
  run.key("directory", path(), &RunOptions::directory, "of one run outside any line")
      .one_of(places)
      .may_change_on_resume();
  run.key("duration", length({.type = "a length > 0, not a share", .zero = false, .share = false}),
          &RunOptions::duration, "length of the run")
      .required()
      .may_change_on_resume();
  run.key("seed", integer<uint64_t>(0), &RunOptions::seed, "of every random choice");
  run.key("reproducible", modes, &RunOptions::reproducible,
          "`same-world`: the same bits again on the same number of workers; `any-world`: on any number");
  run.key("threads", integer<int>(1, 1024), &RunOptions::threads, "of each worker, for tensor operations");
  run.key("workers", worker_count(), &RunOptions::workers, "how many; `-n` of the command overrides it")
      .may_change_on_resume();
  run.later<int>("max_restarts", integer<int>(0), 0, "restarts after a failure");
  run.key("deadline", wait_time(), &RunOptions::deadline, "of every wait for another worker")
      .may_change_on_resume();
  run.key(
      "precision",
      choice<Precision>({{"float32", Precision::kFloat32},
                         {"bfloat16", Precision::kBFloat16},
                         {"float16", Precision::kFloat16}}),
      &RunOptions::precision,
      "of the forward and backward pass, where PyTorch's autocast takes it to do no harm; weights and sums "
      "stay `float32`. `float16` scales the loss, by what the run finds out");
  run.key("tf32", boolean(), &RunOptions::tf32, "products of `float32` on GPUs keep 10 bits of the fraction");
  run.key("on_nan", on_nan, &RunOptions::on_nan,
          "what follows a loss or gradient that is not finite: `skip` leaves the step out, `rollback` goes "
          "back to the last checkpoint and on with a lower rate");
  run.key("rollback_lr_factor", number(kBetween0And1), &RunOptions::rollback_lr_factor,
          "what the rate is multiplied by")
      .only_with("run.on_nan", {"rollback"});
  run.key("max_rollbacks", integer<int>(1), &RunOptions::max_rollbacks, "of one run")
      .only_with("run.on_nan", {"rollback"});
  run.key("log_every", length(kInterval), &RunOptions::log_every,
          "how often a step is written to `metrics.jsonl`")
      .may_change_on_resume();
  run.key("check_every", length(), &RunOptions::check_every,
          "how often, and before each checkpoint, all workers compare digests of the model they hold; "
          "`\"0ba\"`: never")
      .may_change_on_resume();
  run.key("diagnostics",
          flags<DiagnosticsOptions>({{"noise-scale", &DiagnosticsOptions::noise_scale},
                                     {"update-ratio", &DiagnosticsOptions::update_ratio}}),
          &RunOptions::diagnostics,
          "what is logged beside each step: `noise-scale`, what global batch would be worth it; "
          "`update-ratio`, the update of each group as a share of its weights")
      .may_change_on_resume();
}

std::vector<Key<IncrementOptions>> make_increment_keys() {
  using Positions = std::optional<std::pair<int64_t, int64_t>>;
  const auto itself = [](auto& increment) -> auto& {
    return increment;
  };
  std::vector<Key<IncrementOptions>> rows;
  const IncrementOptions defaults;
  Section<IncrementOptions, decltype(itself)> increment(rows, defaults, kIncrements, itself);

  auto range = pair_of(integer<int64_t>(0), "a list of two integers, 0 <= begin < end");
  range.read = [read = range.read, type = range.type](const Item& item) -> Positions {
    auto value = read(item);
    if (value && value->first >= value->second) return item.wrong(type);
    return value;
  };
  increment.key("images", path(), &IncrementOptions::images, "an IDX file, plain or .gz; with `labels`");
  increment.key("labels", path(), &IncrementOptions::labels, "an IDX file, plain or .gz; with `images`");
  increment.key(
      "path", path(), &IncrementOptions::path,
      "a safetensors file with the tensors `x` (F32; I64, such as tokens, for a model of your own) and "
      "`y` (I64)");
  increment
      .key("range", maybe(range), &IncrementOptions::range,
           "only these positions of the file: from begin up to, not with, end")
      .default_is("the whole file");
  return rows;
}

std::vector<Key<GroupOptions>> make_group_keys() {
  const auto itself = [](auto& group) -> auto& {
    return group;
  };
  std::vector<Key<GroupOptions>> rows;
  const GroupOptions defaults;
  Section<GroupOptions, decltype(itself)> group(rows, defaults, kGroups, itself);
  group
      .key("match", list_of(text("a glob"), "a list of globs"), &GroupOptions::match,
           "globs over parameter names")
      .default_is("required");
  group.key("lr_factor", number(at_least(0)), &GroupOptions::lr_factor, "what the rate is multiplied by");
  group
      .key("weight_decay", maybe(number(at_least(0))), &GroupOptions::weight_decay,
           "of those that `no_decay` does not leave alone")
      .default_is("that of `[optimizer]`");
  group.key("freeze", boolean(), &GroupOptions::freeze, "they are not trained at all");
  group.key("unfreeze_at", optional_length(), &GroupOptions::unfreeze_at,
            "they are not trained before that, counted from the beginning of the run");
  return rows;
}

}  // namespace

const std::vector<Key<Job>>& job_keys() {
  static const std::vector<Key<Job>> keys = [] {
    Table table;
    for (const auto add : {add_model, add_data, add_data_tables, add_batch, add_optimizer, add_schedule,
                           add_warm_start, add_evaluation, add_checkpoint, add_verdict, add_run}) {
      add(table);
    }
    return std::move(table.rows);
  }();
  return keys;
}

const std::vector<Key<IncrementOptions>>& increment_keys() {
  static const std::vector<Key<IncrementOptions>> keys = make_increment_keys();
  return keys;
}

const std::vector<Key<GroupOptions>>& group_keys() {
  static const std::vector<Key<GroupOptions>> keys = make_group_keys();
  return keys;
}

bool has_meaning(const Key<Job>& key, const Job& job) {
  if (key.only.values.empty()) return true;
  const size_t dot = key.only.key.rfind('.');
  const std::string value =
      find_key(job_keys(), key.only.key.substr(0, dot), key.only.key.substr(dot + 1))->print(job);
  return std::ranges::any_of(key.only.values, [&](const std::string& one) { return quote(one) == value; });
}

bool is_section(const std::string& name) {
  return std::ranges::any_of(job_keys(), [&](const Key<Job>& key) { return key.section == name; });
}

std::vector<std::string> names_in(const std::string& section) {
  std::vector<std::string> names;
  const auto add = [&](const std::string& name) {
    if (std::ranges::count(names, name) == 0) names.push_back(name);
  };
  const std::string prefix = section.empty() ? "" : section + ".";
  for (const Key<Job>& key : job_keys()) {
    if (key.section == section) add(key.name);
    if (key.section != section && key.section.starts_with(prefix)) {
      add(key.section.substr(prefix.size(), key.section.find('.', prefix.size()) - prefix.size()));
    }
  }
  for (const Key<IncrementOptions>& key : increment_keys()) {
    if (key.section == section) add(key.name);
  }
  for (const Key<GroupOptions>& key : group_keys()) {
    if (key.section == section) add(key.name);
  }
  return names;
}

}  // namespace rekindle
