// SPDX-License-Identifier: Apache-2.0
#include "worker/describe.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <sstream>

#include "checkpoints/locate.h"
#include "comm/sum_plan.h"
#include "core/error.h"
#include "core/names.h"
#include "core/text.h"
#include "data/dataset.h"
#include "data/loader.h"
#include "data/split.h"
#include "models/model.h"
#include "warmstart/load_weights.h"
#include "warmstart/parent.h"
#include "worker/model_card.h"
#include "worker/moments.h"
#include "worker/preflight.h"

namespace rekindle {
namespace {

using nlohmann::ordered_json;

std::optional<Parent> parent_of(FileSystem& files, const Job& job) {
  if (job.warm_start.from.empty()) return std::nullopt;
  return find_parent(files, job.warm_start.from, job.run.line, job.warm_start.reads_optimizer());
}

ordered_json to_json(const LoadReport& report, const Parent& parent, const WarmStartOptions& options) {
  ordered_json renamed = ordered_json::array();
  for (const auto& [from, to] : report.renamed) renamed.push_back({{"from", from}, {"to", to}});
  return {{"from", parent.source.path.string()},
          {"parent", parent.digest},
          {"loaded_share", report.loaded_share()},
          {"min_loaded", options.min_loaded},
          {"enough", options.weights == Carry::kReset || report.loaded_share() >= options.min_loaded},
          {"bytes", report.bytes},
          {"loaded", report.loaded},
          {"renamed", renamed},
          {"resized", report.resized},
          {"converted", report.converted},
          {"fresh", report.fresh},
          {"unused", report.unused}};
}

int64_t steps_of(const Timeline& timeline, const Length& duration) {
  const double samples = timeline.samples_in(duration, 0);
  const auto steps = timeline.steps_at(static_cast<int64_t>(std::ceil(samples)));
  return steps + (static_cast<double>(timeline.samples_after(steps)) < samples ? 1 : 0);
}

// The samples of a batch on the rank that has the most of them.
int64_t samples_of_busiest(const Job& job, int64_t batch, int world, int64_t least) {
  const int cut = virtual_workers(job, world);
  const SumPlan plan = job.run.reproducible == Reproducible::kAnyWorld ? SumPlan::along_tree(cut, world)
                                                                       : SumPlan::in_order_of_ranks(world);
  int64_t most = 1;
  for (int rank = 0; rank < world; ++rank) {
    int64_t samples = 0;
    for (int leaf = plan.first_leaf(rank); leaf < plan.first_leaf(rank + 1); ++leaf)
      samples += share_of(batch, leaf, cut, least).size();
    most = std::max(most, samples);
  }
  return most;
}

// How many steps a time has nobody knows: of a run by the clock a warm-up by Adam's constants is left out.
constexpr int64_t kManySteps = int64_t{1} << 40;

// The highest rate of the run, as far as it can be told: what a child goes on with may be over its peak.
double highest_rate(const Schedule& schedule, const Timeline& timeline, const ScheduleState& state,
                    int64_t steps) {
  if (state.origin.step == 0) return schedule.peak();
  const bool by_time = steps == 0;
  double highest = 0;
  for (int place = 0; by_time && place <= 512; ++place)
    highest = std::max(highest, schedule.at({0, kManySteps, schedule.end() * place / 512}, state));
  if (by_time) return highest;
  for (int64_t step = 0; step < steps; step += 1 + steps / 4096)
    highest = std::max(highest, schedule.at({timeline.samples_after(step), step, 0}, state));
  return highest;
}

ordered_json row_of(const Job& job, const Timeline& timeline, const ScheduleState& state, int64_t least,
                    int world) {
  const Schedule schedule = schedule_of(job, timeline, state);
  const int64_t batch = std::min(job.batch.global, timeline.epoch_samples());
  const int cut = virtual_workers(job, world);
  const int64_t share = share_of(batch, 0, cut, least).size();
  const int64_t most = job.batch.microbatch > 0 ? job.batch.microbatch : share;
  const int64_t passes = std::max<int64_t>(1, (share + most - 1) / most);
  const int64_t busiest = samples_of_busiest(job, batch, world, least);
  const bool by_time = job.run.duration.is_time();
  ordered_json row{{"workers", world},
                   {"global_batch", job.batch.global},
                   {"per_worker", (batch + world - 1) / world},
                   {"accumulation", passes * ((cut + world - 1) / world)},
                   {"idle_share", 1 - static_cast<double>(batch) / static_cast<double>(busiest * world)}};
  const double warmup = std::max(0.0, schedule.warmup() - schedule.before());
  const int64_t steps = by_time ? 0 : steps_of(timeline, job.run.duration);
  row["peak_lr"] = highest_rate(schedule, timeline, state, steps);
  if (!std::isfinite(row["peak_lr"].get<double>()))
    throw bad_input("the peak rate overflows", "schedule.base_lr", "lower it, or schedule.lr_scaling");
  if (job.schedule.lr_scaling == LrScaling::kAdamSqrt) {
    row["betas"] = {schedule.adam().beta1, schedule.adam().beta2};
    row["eps"] = schedule.adam().eps;
  }
  if (by_time) {
    row["seconds"] = schedule.end();
    row["warmup_seconds"] = warmup;
    return row;
  }
  row["steps"] = steps;
  row["samples"] = timeline.samples_after(steps);
  row["epochs"] =
      static_cast<double>(timeline.samples_after(steps)) / static_cast<double>(timeline.epoch_samples());
  row["warmup_samples"] = warmup;
  row["warmup_steps"] = timeline.steps_at(static_cast<int64_t>(std::llround(warmup)));
  row["warmup_epochs"] = warmup / static_cast<double>(timeline.epoch_samples());
  return row;
}

// The rate at so many places of the run that a drawing of it shows every bend.
ordered_json curve(const Job& job, const Timeline& timeline, const ScheduleState& state) {
  constexpr int64_t kPlaces = 512;
  const Schedule schedule = schedule_of(job, timeline, state);
  const bool by_time = job.run.duration.is_time();
  const int64_t steps = by_time ? kPlaces : steps_of(timeline, job.run.duration);
  ordered_json points = ordered_json::array();
  for (int64_t i = 0; i <= std::min(kPlaces, steps); ++i) {
    const int64_t step = i * steps / std::min(kPlaces, steps), samples = timeline.samples_after(step);
    const double seconds = schedule.end() * static_cast<double>(i) / kPlaces;
    const double place =
        by_time ? seconds : static_cast<double>(samples) / static_cast<double>(timeline.epoch_samples());
    points.push_back({place, schedule.at({samples, by_time ? kManySteps : step, seconds}, state)});
  }
  return {{"unit", by_time ? "seconds" : "epochs"}, {"points", points}};
}

ordered_json rates(const Job& job, const Timeline& timeline, const ScheduleState& state) {
  if (job.run.duration.is_time()) {
    throw bad_input("a run that ends by the clock has no list of steps", "run.duration",
                    "leave out --schedule");
  }
  const Schedule schedule = schedule_of(job, timeline, state);
  ordered_json list = ordered_json::array();
  const int64_t steps = steps_of(timeline, job.run.duration);
  for (int64_t step = 0; step < steps; ++step) {
    const int64_t samples = timeline.samples_after(step);
    list.push_back({step, samples, schedule.at({samples, step, 0}, state)});
  }
  return list;
}

// The names of the parameters that each layer has, and its share of the rate.
ordered_json layers_json(const OptimizerOptions& options, const FlatLayout& layout) {
  ordered_json layers = ordered_json::array();
  if (options.layer_decay == 1) return layers;
  const std::vector<int> numbers = layers_of(layout);
  const int last = numbers.empty() ? -1 : std::ranges::max(numbers);
  for (int layer = 0; layer <= last; ++layer)
    layers.push_back({{"lr_factor", std::pow(options.layer_decay, last - layer)}, {"parameters", {}}});
  for (size_t i = 0; i < numbers.size(); ++i)
    layers[static_cast<size_t>(numbers[i])]["parameters"].push_back(layout.entries()[i].name);
  return layers;
}

// What is trained otherwise than the rest, and what does not decay.
ordered_json treatment_of(const Job& job, const NamedState& state) {
  FlatLayout layout;
  std::map<std::string, ordered_json> groups;
  const auto count = [&](const std::string& name, const at::Tensor& tensor) {
    const GroupOptions* const group = group_of(job.optimizer, name);
    if (group == nullptr) return;
    ordered_json& entry = groups[enumerate(group->match)];
    if (entry.is_null()) {
      entry = {{"match", group->match}, {"parameters", 0}, {"lr_factor", group->lr_factor}};
      entry["weight_decay"] = group->weight_decay.value_or(job.optimizer.weight_decay);
      entry["freeze"] = group->freeze;
      if (!group->unfreeze_at.is_zero()) entry["unfreeze_at"] = to_string(group->unfreeze_at);
    }
    entry["parameters"] = entry["parameters"].get<int64_t>() + tensor.numel();
  };
  for (const auto& [name, tensor] : state.frozen) count(name, tensor);
  for (const auto& [name, tensor] : state.parameters) {
    layout.append(name, tensor.sizes().vec());
    count(name, tensor);
  }
  const std::vector<Treatment> all = treatments(job.optimizer, layout);
  const bool looks_at_norms = job.optimizer.name == "lars" || job.optimizer.name == "lamb";
  ordered_json answer{
      {"weight_decay", job.optimizer.weight_decay},
      {"decays", std::ranges::any_of(all, [](const Treatment& one) { return one.weight_decay > 0; })},
      {"adapts", looks_at_norms},
      {"no_decay", ordered_json::array()},
      {"groups", ordered_json::array()},
      {"layers", layers_json(job.optimizer, layout)}};
  for (const FlatLayout::Entry& entry : layout.entries())
    if (!decays(job.optimizer, entry)) answer["no_decay"].push_back(entry.name);
  for (const auto& [name, entry] : groups) answer["groups"].push_back(entry);
  return answer;
}

// Whether a run of `other` takes as long for a sample as one of `job`.
bool computes_alike(const Job& job, const Job& other) {
  return job.model.name() == other.model.name() && job.model.values() == other.model.values() &&
         job.batch.global == other.batch.global && job.batch.per_worker == other.batch.per_worker &&
         job.batch.microbatch == other.batch.microbatch && job.run.precision == other.run.precision &&
         job.run.threads == other.run.threads && job.run.reproducible == other.run.reproducible &&
         job.run.tf32 == other.run.tf32 && job.batch.virtual_workers == other.batch.virtual_workers &&
         job.batch.start == other.batch.start && job.batch.ramp == other.batch.ramp &&
         job.optimizer.name == other.optimizer.name;
}

// The runs of the line, the newest first; or the run's own directory, which it may go on in.
std::vector<std::filesystem::path> runs_before(FileSystem& files, const Job& job) {
  if (job.run.line.empty()) return {job.run.directory};
  std::vector<std::filesystem::path> runs = runs_in(files, job.run.line);
  std::ranges::reverse(runs);
  return runs;
}

// Samples a second by the number of workers, as the newest of those runs had them that did the same work for
// a sample.
std::map<int, double> measured_rates(FileSystem& files, const Job& job, int64_t parameters,
                                     const DataShape& shape) {
  std::map<int, double> rates;
  for (const std::filesystem::path& folder : runs_before(files, job)) {
    const std::filesystem::path log = folder / names::kMetrics;
    if (!files.exists(log) || !files.exists(folder / names::kResolvedJob)) continue;
    try {
      if (!computes_alike(job, read_job(folder / names::kResolvedJob))) continue;
      std::istringstream lines(read_text(files, log));
      std::map<int, std::vector<double>> seen;
      int world = 0;
      for (std::string line; std::getline(lines, line);) {
        const auto event = nlohmann::json::parse(line, nullptr, false);
        if (event.is_discarded()) break;  // a crash cut it off
        if (event.contains("workers")) {
          world = event["workers"];
          if (event.value("parameters", int64_t{0}) != parameters ||
              event.value("sample", std::vector<int64_t>()) != shape.sample())
            break;
        }
        const double rate = event.value("samples_per_second", 0.0);
        if (rate > 0) seen[world].push_back(rate);
      }
      for (auto& [workers, list] : seen) {
        std::ranges::nth_element(list, list.begin() + list.size() / 2);
        rates.emplace(workers, list[list.size() / 2]);
      }
    } catch (const std::exception&) {
      continue;  // a run that cannot be read tells nothing
    }
  }
  return rates;
}

}  // namespace

ordered_json describe(FileSystem& files, const Job& job, const std::vector<int>& worlds, bool schedule) {
  const std::optional<Parent> parent = parent_of(files, job);
  const ModelCard* card = parent && parent->checkpoint ? &parent->checkpoint->card : nullptr;
  const Dataset data(files, job.data, card ? card->classes : std::vector<std::string>{});
  if (card != nullptr) check_preprocessing(*card, card_of(job, data.shape(), data.classes()));
  const Split parts = split(data, job.split);
  const std::shared_ptr<Model> model = make_trainee(job, data.shape());
  const NamedState state = state_of(*model);
  check_model(job, data, *model, state);
  int64_t parameters = 0, frozen = 0;
  for (const auto& [name, tensor] : state.parameters) parameters += tensor.numel();
  for (const auto& [name, tensor] : state.frozen) frozen += tensor.numel();
  ordered_json answer{{"model", {{"name", job.model.name()}, {"parameters", parameters}, {"frozen", frozen}}},
                      {"data",
                       {{"samples", data.size()},
                        {"increments", data.increments().size()},
                        {"classes", data.classes().size()},
                        {"train", parts.train.size()},
                        {"validation", parts.validation.size()},
                        {"test", parts.test.size()}}},
                      {"warm_start", nullptr},
                      {"worlds", ordered_json::array()}};
  if (parent && job.warm_start.strategy == Strategy::kWarm) {
    if (job.warm_start.optimizer == Carry::kLoad)
      check_same_rule(files, *parent->checkpoint, moment_names_of(job.optimizer));
    if (job.warm_start.ema == Carry::kLoad) check_has_average(files, *parent->checkpoint);
    HeadClasses classes;
    if (card != nullptr && card->classes != data.classes()) classes = {card->classes, data.classes()};
    answer["warm_start"] = to_json(plan_load(files, parent->source.path, state, job.warm_start, classes),
                                   *parent, job.warm_start);
  }
  answer["optimizer"] = treatment_of(job, state);
  const TrainState* const before = parent && parent->checkpoint ? &parent->checkpoint->state : nullptr;
  const ScheduleState begin = starting_state(job, parent.has_value(), before);
  const std::map<int, double> measured = measured_rates(files, job, parameters, data.shape());
  for (const int world : worlds) {
    const Job here = for_world(job, world);
    const Timeline timeline = timeline_of(here, static_cast<int64_t>(parts.train.size()));
    if (warms_up_long(here, schedule_of(here, timeline, begin))) {
      throw bad_input("the warm-up takes more than half of the run", "schedule.warmup",
                      "shorten it, or lengthen run.duration; schedule.long_warmup = true lets it stand");
    }
    check_fits(here, *model, static_cast<int64_t>(parts.train.size()), world, begin);
    check_noise(here, *model, static_cast<int64_t>(parts.train.size()), world);
    ordered_json row = row_of(here, timeline, begin, least_samples(*model), world);
    if (const auto rate = measured.find(world); rate != measured.end() && row.contains("samples"))
      row["expected_seconds"] = row["samples"].get<double>() / rate->second;
    if (schedule) row["schedule"] = rates(here, timeline, begin);
    answer["worlds"].push_back(std::move(row));
    if (!answer.contains("curve")) answer["curve"] = curve(here, timeline, begin);
  }
  return answer;
}

}  // namespace rekindle
