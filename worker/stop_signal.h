// SPDX-License-Identifier: Apache-2.0
#pragma once

namespace rekindle {

// From now on USR2, TERM and INT do not end this process but are remembered: the launcher and batch systems
// send them to ask for a stop. The training loop asks at every step, so that all ranks stop at the same one.
void catch_stop_signals();
bool stop_requested();

}  // namespace rekindle
