// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <nlohmann/json_fwd.hpp>

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "core/progress.h"
#include "core/schedule_state.h"

namespace rekindle {

// A stretch of steps that was trained by `world` ranks, up to where the next one begins.
struct WorldSpan {
  int64_t from_step = 0;
  int world = 1;

  bool operator==(const WorldSpan&) const = default;
};

// The evaluation on validation data that was the best so far.
struct Best {
  double score = 0;  // accuracy, or minus the loss: more is better
  int64_t step = 0;

  bool operator==(const Best&) const = default;
};

// What a loss is multiplied by, so that gradients of float16 do not vanish.
struct LossScale {
  double scale = 65536;
  int64_t good_steps = 0;  // since it changed

  bool operator==(const LossScale&) const = default;
};

// state.json: everything that a run needs to go on, besides weights and moments. There is no generator's
// state in it: the sample order and all randomness are functions of the seed and of the progress.
struct TrainState {
  Progress progress;
  uint64_t seed = 1;
  int64_t optimizer_steps = 0;  // updates made: fewer than progress.step where steps were skipped
  std::map<std::string, int64_t> missed_steps;  // of those, by parameters that took part in fewer
  int64_t skipped_steps = 0;                    // whose loss or gradient was not finite
  std::vector<WorldSpan> worlds;                // in order; the first begins at step 0
  std::string job_digest;
  std::optional<Best> best;  // none before the first evaluation
  ScheduleState schedule;
  std::optional<LossScale> loss_scale;  // none but with float16
  bool averaged =
      false;  // the model is the averaged weights, and the optimizer's parts have the trained ones

  bool operator==(const TrainState&) const = default;
};

nlohmann::json to_json(const TrainState& state);  // numbers read back to the same bits

// Throws bad_input that names `where` and the key.
TrainState train_state_from_json(const nlohmann::json& json, const std::string& where);

}  // namespace rekindle
