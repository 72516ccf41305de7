// SPDX-License-Identifier: Apache-2.0
#pragma once

// toml++ asserts what malformed input ("[=") breaks, and has a proper error for the same a few lines on.
// Where its parser is compiled with ours, that error is the one we want.
#define TOML_ASSERT(expression) static_cast<void>(0)

#include <toml++/toml.h>
