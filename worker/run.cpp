// SPDX-License-Identifier: Apache-2.0
#include "worker/run.h"

#include <cstdio>

#include "core/log.h"

namespace rekindle {

void log_scores(const Run& run, const char* set, const char* model, const Scores& scores,
                const Progress& progress) {
  run.metrics.write("eval", {{"step", progress.step},
                             {"samples", progress.samples},
                             {"set", set},
                             {"model", model},
                             {"n", scores.samples()},
                             {"metrics", {{"accuracy", scores.accuracy()}, {"loss", scores.mean_loss()}}}});
  if (!run.is_root()) return;
  char line[160];
  std::snprintf(line, sizeof line, "step %6lld  %-10s %-6s accuracy %.4f  loss %.4f  (%lld samples)",
                static_cast<long long>(progress.step), set, model, scores.accuracy(), scores.mean_loss(),
                static_cast<long long>(scores.samples()));
  log_info(line);
}

}  // namespace rekindle
