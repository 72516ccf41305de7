// SPDX-License-Identifier: Apache-2.0
#include "core/json.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace rekindle {
namespace {

using testing::HasSubstr;

std::string refusal(std::string_view text, int deepest = 16) {
  try {
    parse_json(text, "a.json", deepest);
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ExitCode::kBadInput);
    EXPECT_EQ(error.details().where, "a.json");
    return error.summary();
  }
  return "";
}

TEST(ParseJson, TakesWhatIsJson) {
  EXPECT_EQ(parse_json(R"({"a":{"x":1},"b":{"x":2}})", "")["b"]["x"], 2);
  EXPECT_EQ(refusal(R"({"a":[1,2,{"a":3}]})"), "");  // equal keys of different objects
}

TEST(ParseJson, RefusesWhatALenientReaderWouldTake) {
  EXPECT_THAT(refusal(R"({"a":1,"b":2,"a":3})"), HasSubstr("\"a\" stands twice"));
  EXPECT_THAT(refusal(R"({"o":{"k":1,"k":1}})"), HasSubstr("\"k\" stands twice"));
  EXPECT_THAT(refusal(std::string_view("{}\0{}", 5)), HasSubstr("zero byte"));
  EXPECT_THAT(refusal("[[[[1]]]]", 3), HasSubstr("too deep"));
  EXPECT_THAT(refusal(std::string(1'000'000, '[')), HasSubstr("too deep"));
  EXPECT_THAT(refusal("{} {}"), HasSubstr("parse error"));
  EXPECT_THAT(refusal("{\"\xff\":1}"), HasSubstr("UTF-8"));
  EXPECT_THAT(refusal(""), HasSubstr("unexpected end"));
}

}  // namespace
}  // namespace rekindle
