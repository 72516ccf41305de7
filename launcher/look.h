// SPDX-License-Identifier: Apache-2.0
// The commands that read what is on disk and change nothing: inspect, verify, lineage, diff. None needs torch
// or MPI. Each prints for people, or one JSON value with `json`.
#pragma once

#include <filesystem>

#include "core/error.h"
#include "core/file_system.h"

namespace rekindle {

// What a checkpoint, run, line or file of weights is. Throws bad_input where there is none.
ExitCode inspect(FileSystem& files, const std::filesystem::path& path, bool json);

// Reads every byte: kDone where all is as it was written, kFailed where something is damaged, with what. Of a
// run all generations, of a line all runs. Throws bad_input where there is no checkpoint.
ExitCode verify(FileSystem& files, const std::filesystem::path& path, bool json);

// The tree of who was trained from whom: of a line, or of the line that a run or checkpoint lies in.
ExitCode lineage(FileSystem& files, const std::filesystem::path& path, bool json);

// What changed from one model to another: keys of the job, data, and tensors with norms and distances.
ExitCode diff(FileSystem& files, const std::filesystem::path& a, const std::filesystem::path& b, bool json);

}  // namespace rekindle
