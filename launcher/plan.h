// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "core/error.h"
#include "launcher/command_line.h"

namespace rekindle {

// Prints what a job would be: the worker is asked, alone and without MPI. Ends as the worker does where it
// refuses the job, and with kBadInput where a warm start would load too little.
ExitCode plan(const PlanCommand& command);

}  // namespace rekindle
