// SPDX-License-Identifier: Apache-2.0
// Part of the public interface: <rekindle/worker.h>.
#pragma once

namespace rekindle {

// One rank, from its arguments to its exit code:  WORKER JOB [--exit-code] [section.key=value ...]
// Your own worker registers its models (REKINDLE_MODEL) and returns this from its `main`.
int worker_main(int argc, char** argv);

}  // namespace rekindle
