// SPDX-License-Identifier: Apache-2.0
#include "checkpoints/train_state.h"

#include <nlohmann/json.hpp>

#include <limits>
#include <utility>

#include "checkpoints/fields.h"
#include "core/error.h"

namespace rekindle {

namespace {

constexpr std::pair<const char*, ScheduleState::Mean ScheduleState::*> kMeans[] = {
    {"loss", &ScheduleState::loss}, {"noise", &ScheduleState::noise}, {"signal", &ScheduleState::signal}};

nlohmann::json to_json(const ScheduleState::Watch& watch) {
  nlohmann::json json{{"waited", watch.waited}, {"cooldown", watch.cooldown}};
  if (watch.best) json["best"] = *watch.best;
  return json;
}

ScheduleState::Watch watch_from(const Fields& fields) {
  return {fields.maybe_number("best"), fields.count("waited"), fields.count("cooldown")};
}

nlohmann::json to_json(const Progress& progress) {
  return {{"samples", progress.samples}, {"step", progress.step}, {"seconds", progress.seconds}};
}

nlohmann::json to_json(const ScheduleState& state) {
  nlohmann::json json{{"lr", state.lr},
                      {"plateau_factor", state.plateau_factor},
                      {"rollback_factor", state.rollback_factor},
                      {"rollbacks", state.rollbacks}};
  const ScheduleState fresh;
  if (state.origin != fresh.origin) json["origin"] = to_json(state.origin);
  if (state.start_lr) json["start_lr"] = *state.start_lr;
  if (state.peak_factor != fresh.peak_factor) json["peak_factor"] = state.peak_factor;
  if (state.warmup_end) {
    json["warmup_end"] = to_json(*state.warmup_end);
    json["reached"] = state.reached;
  }
  if (state.warmup != fresh.warmup) json["warmup"] = to_json(state.warmup);
  if (state.plateau != fresh.plateau) json["plateau"] = to_json(state.plateau);
  for (const auto& [name, mean] : kMeans) {
    if (state.*mean != fresh.*mean)
      json[name] = {{"sum", (state.*mean).sum}, {"weight", (state.*mean).weight}};
  }
  return json;
}

Progress progress_from(const Fields& fields) {
  return {fields.count("samples"), fields.count("step"), fields.number("seconds")};
}

ScheduleState schedule_state_from(const nlohmann::json& json, const std::string& where) {
  const Fields fields(json, where);
  ScheduleState state;
  state.lr = fields.number("lr");
  state.plateau_factor = fields.number("plateau_factor");
  state.rollback_factor = fields.number("rollback_factor");
  state.rollbacks = fields.count("rollbacks");
  state.start_lr = fields.maybe_number("start_lr");
  state.peak_factor = fields.maybe_number("peak_factor").value_or(1);
  if (json.contains("warmup_end")) {
    state.warmup_end = progress_from(Fields(fields.object("warmup_end"), where));
    state.reached = fields.number("reached");
  }
  if (json.contains("origin")) state.origin = progress_from(Fields(fields.object("origin"), where));
  if (json.contains("warmup")) state.warmup = watch_from(Fields(fields.object("warmup"), where));
  if (json.contains("plateau")) state.plateau = watch_from(Fields(fields.object("plateau"), where));
  for (const auto& [name, mean] : kMeans) {
    if (!json.contains(name)) continue;
    const Fields sums(fields.object(name), where);
    state.*mean = {sums.number("sum"), sums.number("weight")};
  }
  return state;
}

}  // namespace

nlohmann::json to_json(const TrainState& state) {
  nlohmann::json worlds = nlohmann::json::array();
  for (const WorldSpan& span : state.worlds) {
    worlds.push_back({{"from_step", span.from_step}, {"world", span.world}});
  }
  nlohmann::json json{{"samples", state.progress.samples},
                      {"step", state.progress.step},
                      {"seconds", state.progress.seconds},
                      {"seed", state.seed},
                      {"optimizer_steps", state.optimizer_steps},
                      {"worlds", worlds},
                      {"job", state.job_digest},
                      {"schedule", to_json(state.schedule)}};
  if (state.best) json["best"] = {{"score", state.best->score}, {"step", state.best->step}};
  if (state.averaged) json["averaged"] = true;
  if (state.skipped_steps > 0) json["skipped_steps"] = state.skipped_steps;
  if (!state.missed_steps.empty()) json["missed_steps"] = state.missed_steps;
  if (state.loss_scale)
    json["loss_scale"] = {{"scale", state.loss_scale->scale}, {"good_steps", state.loss_scale->good_steps}};
  return json;
}

TrainState train_state_from_json(const nlohmann::json& json, const std::string& where) {
  const Fields fields(json, where);
  TrainState state;
  state.progress = progress_from(fields);
  state.seed = fields.bits("seed");
  state.optimizer_steps = fields.count("optimizer_steps");
  for (const Fields& span : fields.objects("worlds")) {
    const int64_t world = span.count("world");
    if (world < 1 || world > std::numeric_limits<int>::max()) {
      throw bad_input("\"world\" is " + std::to_string(world) + ", expected a number of ranks", where);
    }
    state.worlds.push_back({span.count("from_step"), static_cast<int>(world)});
  }
  if (state.worlds.empty()) throw bad_input("\"worlds\" is empty, expected one at least", where);
  state.job_digest = fields.digest("job");
  if (json.contains("best")) {
    const Fields best(fields.object("best"), where);
    state.best = Best{best.number("score"), best.count("step")};
  }
  if (json.contains("schedule")) state.schedule = schedule_state_from(fields.object("schedule"), where);
  if (json.contains("skipped_steps")) state.skipped_steps = fields.count("skipped_steps");
  if (json.contains("missed_steps")) {
    const nlohmann::json& missed = fields.object("missed_steps");
    const Fields counts(missed, where);
    for (const auto& [name, steps] : missed.items()) state.missed_steps[name] = counts.count(name.c_str());
  }
  state.averaged = json.contains("averaged") && fields.truth("averaged");
  if (json.contains("loss_scale")) {
    const Fields scale(fields.object("loss_scale"), where);
    state.loss_scale = LossScale{scale.number("scale"), scale.count("good_steps")};
  }
  return state;
}

}  // namespace rekindle
