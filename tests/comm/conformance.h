// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "comm/communicator.h"

namespace rekindle {

// What every communicator must do, as functions that every rank calls and that throw where it does not.
// Every rank has values of its own, so that a collective that does nothing is found out.
using Check = std::function<void(Communicator&)>;
std::vector<std::pair<std::string, Check>> conformance_checks();

}  // namespace rekindle
