// SPDX-License-Identifier: Apache-2.0
// Every name that we give to something on disk. Scripts depend on them: they change only with a major
// version.
#pragma once

#include <cstdint>
#include <string>

namespace rekindle::names {

// A line: a folder of runs of one model, each named by its UTC start.
inline constexpr char kPromoted[] = "promoted";  // link to the checkpoint that serves now
inline constexpr char kLineLock[] = ".lock";

// A run directory.
inline constexpr char kResolvedJob[] = "job.resolved.toml";
inline constexpr char kEnvironment[] = "environment.json";
inline constexpr char kMetrics[] = "metrics.jsonl";
inline constexpr char kLogs[] = "logs";
inline constexpr char kVerdict[] = "verdict.json";
inline constexpr char kCheckpoints[] = "checkpoints";
inline constexpr char kRunLock[] = ".lock";

// In `checkpoints/`.
inline constexpr char kLatest[] = "latest";
inline constexpr char kBest[] = "best";

// A checkpoint.
inline constexpr char kModel[] = "model.safetensors";
inline constexpr char kModelIndex[] = "model.safetensors.index.json";  // in a folder of shards from elsewhere
inline constexpr char kState[] = "state.json";
inline constexpr char kLineage[] = "lineage.json";
inline constexpr char kModelCard[] = "model.json";
inline constexpr char kManifest[] = "manifest.json";

std::string log_of(int rank);                                          // "rank-3.log"
std::string step(int64_t step);                                        // "step-000001200"
std::string step_temporary(int64_t step, const std::string& attempt);  // ".step-000001200.tmp-ATTEMPT"
std::string step_aside(int64_t step, const std::string& attempt);      // ".step-000001200.aside-ATTEMPT"
std::string optimizer_part(int part, int parts);  // part from 0: "optimizer-00001-of-00002.safetensors"

// The step in a name made by step(), or -1.
int64_t step_in(const std::string& name);

}  // namespace rekindle::names
