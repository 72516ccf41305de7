// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>

#include "core/error.h"

namespace rekindle {

// Calls `function`, which must throw Error with `code`, and returns its text.
template <typename Function>
std::string error_of(const Function& function, ExitCode code = ExitCode::kBadInput) {
  try {
    function();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), code) << error.what();
    return error.what();
  }
  ADD_FAILURE() << "nothing was thrown";
  return "";
}

}  // namespace rekindle
