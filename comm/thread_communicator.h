// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <functional>

#include "comm/communicator.h"
#include "comm/options.h"

namespace rekindle {

// Ranks as threads of this process, for tests: runs `rank_main` once on each of `world` threads and returns
// when all have ended. If some throw, the others' waits end too, and the error of the one that failed first
// is thrown. Not for dropout: the CPU generator is one per process.
void run_as_threads(int world, const CommOptions& options,
                    const std::function<void(Communicator&)>& rank_main);

}  // namespace rekindle
