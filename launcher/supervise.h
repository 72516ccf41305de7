// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "core/error.h"
#include "launcher/compose.h"

namespace rekindle {

// Starts mpirun and stays with it until it has ended. Returns the workers' exit code where it is one of ours,
// else kFailed, and says in one last line on standard error which rank ended how.
//
// The first INT, TERM, HUP or USR2 asks the workers to save and stop: they get USR2, which mpirun passes on
// at once (after a TERM it leaves them one second). A second INT or TERM ends them, within about two seconds;
// a third at once. mpirun's standard error passes through a BannerFilter.
//
// Call it from the main thread, with no other thread running. Throws Error where mpirun cannot be started.
ExitCode supervise(const Launch& launch);

}  // namespace rekindle
