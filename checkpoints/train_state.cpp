// SPDX-License-Identifier: Apache-2.0
#include "checkpoints/train_state.h"

#include <nlohmann/json.hpp>

#include <limits>

#include "checkpoints/fields.h"
#include "core/error.h"

namespace rekindle {

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
                      {"job", state.job_digest}};
  if (state.best) json["best"] = {{"score", state.best->score}, {"step", state.best->step}};
  return json;
}

TrainState train_state_from_json(const nlohmann::json& json, const std::string& where) {
  const Fields fields(json, where);
  TrainState state;
  state.progress = {fields.count("samples"), fields.count("step"), fields.number("seconds")};
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
  return state;
}

}  // namespace rekindle
