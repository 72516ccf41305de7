// SPDX-License-Identifier: Apache-2.0
#include "worker/describe.h"

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>
#include <optional>

#include "comm/sum_plan.h"
#include "core/error.h"
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
  return find_parent(files, job.warm_start.from, job.run.line, job.warm_start.optimizer == Carry::kLoad);
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

ordered_json for_world(const Job& job, const Timeline& timeline, int64_t least, int world) {
  const Schedule schedule = schedule_of(job, timeline);
  const int cut = virtual_workers(job, world);
  const int64_t share = share_of(timeline.batch_at(0), 0, cut, least).size();
  const int64_t most = job.batch.microbatch > 0 ? job.batch.microbatch : share;
  const int64_t passes = std::max<int64_t>(1, (share + most - 1) / most);
  const int64_t busiest = samples_of_busiest(job, timeline.batch_at(0), world, least);
  const bool by_time = job.run.duration.is_time();
  ordered_json row{
      {"workers", world},
      {"global_batch", job.batch.global},
      {"per_worker", (timeline.batch_at(0) + world - 1) / world},
      {"accumulation", passes * ((cut + world - 1) / world)},
      {"idle_share", 1 - static_cast<double>(timeline.batch_at(0)) / static_cast<double>(busiest * world)},
      {"peak_lr", schedule.peak()}};
  if (job.schedule.lr_scaling == LrScaling::kAdamSqrt) {
    row["betas"] = {schedule.adam().beta1, schedule.adam().beta2};
    row["eps"] = schedule.adam().eps;
  }
  if (by_time) {
    row["seconds"] = schedule.end();
    row["warmup_seconds"] = schedule.warmup();
    return row;
  }
  const int64_t steps = steps_of(timeline, job.run.duration);
  row["steps"] = steps;
  row["samples"] = timeline.samples_after(steps);
  row["epochs"] =
      static_cast<double>(timeline.samples_after(steps)) / static_cast<double>(timeline.epoch_samples());
  row["warmup_samples"] = schedule.warmup();
  row["warmup_steps"] = timeline.steps_at(static_cast<int64_t>(std::llround(schedule.warmup())));
  return row;
}

// The rate at so many places of the run that a drawing of it shows every bend.
ordered_json curve(const Job& job, const Timeline& timeline) {
  constexpr int64_t kPlaces = 512;
  const Schedule schedule = schedule_of(job, timeline);
  const bool by_time = job.run.duration.is_time();
  const int64_t steps = by_time ? kPlaces : steps_of(timeline, job.run.duration);
  ordered_json points = ordered_json::array();
  for (int64_t i = 0; i <= std::min(kPlaces, steps); ++i) {
    const int64_t step = i * steps / std::min(kPlaces, steps), samples = timeline.samples_after(step);
    const double seconds = schedule.end() * static_cast<double>(i) / kPlaces;
    const double place =
        by_time ? seconds : static_cast<double>(samples) / static_cast<double>(timeline.epoch_samples());
    points.push_back({place, schedule.at({samples, step, seconds})});
  }
  return {{"unit", by_time ? "seconds" : "epochs"}, {"points", points}};
}

ordered_json rates(const Job& job, const Timeline& timeline) {
  if (job.run.duration.is_time()) {
    throw bad_input("a run that ends by the clock has no list of steps", "run.duration",
                    "leave out --schedule");
  }
  const Schedule schedule = schedule_of(job, timeline);
  ordered_json list = ordered_json::array();
  const int64_t steps = steps_of(timeline, job.run.duration);
  for (int64_t step = 0; step < steps; ++step) {
    const int64_t samples = timeline.samples_after(step);
    list.push_back({step, samples, schedule.at({samples, step, 0})});
  }
  return list;
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
  const Timeline timeline(static_cast<int64_t>(parts.train.size()), job.batch.global);

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
    HeadClasses classes;
    if (card != nullptr && card->classes != data.classes()) classes = {card->classes, data.classes()};
    answer["warm_start"] = to_json(plan_load(files, parent->source.path, state, job.warm_start, classes),
                                   *parent, job.warm_start);
  }
  if (const Schedule planned = schedule_of(job, timeline); warms_up_long(job, planned)) {
    throw bad_input("the warm-up takes more than half of the run", "schedule.warmup",
                    "shorten it, or lengthen run.duration; schedule.long_warmup = true lets it stand");
  }
  for (const int world : worlds) {
    check_fits(job, *model, static_cast<int64_t>(parts.train.size()), world);
    answer["worlds"].push_back(for_world(job, timeline, least_samples(*model), world));
  }
  answer["curve"] = curve(job, timeline);
  if (schedule) answer["schedule"] = rates(job, timeline);
  return answer;
}

}  // namespace rekindle
