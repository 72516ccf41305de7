// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "comm/communicator.h"
#include "core/error.h"

namespace rekindle {

// What every communicator must do, as functions that every rank calls and that throw where it does not.
// Every rank has values of its own, so that a collective that does nothing is found out.
using Check = std::function<void(Communicator&)>;
std::vector<std::pair<std::string, Check>> conformance_checks();

// What ranks may do wrong, in a world of at least two: every one of them must get an Error in the end, within
// the deadline. The communicator is of no use afterwards.
using Misuse = std::function<void(Communicator&)>;
std::vector<std::pair<std::string, Misuse>> conformance_misuses();
bool is_named(const Error& error);  // it says what was waited for, or about what the ranks disagree

}  // namespace rekindle
