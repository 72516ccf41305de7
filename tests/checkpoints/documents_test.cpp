// SPDX-License-Identifier: Apache-2.0
// state.json, lineage.json and model.json.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>
#include <limits>

#include "core/error.h"
#include "tests/checkpoints/saved.h"

namespace rekindle {
namespace {

using nlohmann::json;
using testing::HasSubstr;

json through_text(const json& value) {
  return json::parse(value.dump());
}

TEST(Documents, ReadBackAsTheyWere) {
  EXPECT_EQ(train_state_from_json(through_text(to_json(some_state(12))), ""), some_state(12));
  EXPECT_EQ(lineage_from_json(through_text(to_json(some_lineage())), ""), some_lineage());
  EXPECT_EQ(model_card_from_json(through_text(to_json(some_card())), ""), some_card());

  Lineage cold = some_lineage();
  cold.parent = "";
  cold.increments.clear();
  EXPECT_EQ(lineage_from_json(through_text(to_json(cold)), ""), cold);
  EXPECT_TRUE(through_text(to_json(cold))["increments"].is_array());
  ModelCard plain;
  plain.model = "logistic";
  EXPECT_EQ(model_card_from_json(through_text(to_json(plain)), ""), plain);
}

TEST(Documents, NumbersReadBackToTheSameBits) {
  TrainState state = some_state(1);
  state.seed = std::numeric_limits<uint64_t>::max();
  state.progress.samples = std::numeric_limits<int64_t>::max();
  for (const double seconds : {0.1, 1.0 / 3, 1e-300, 5e-324, 1.7976931348623157e308, 123456789.123456789}) {
    state.progress.seconds = seconds;
    EXPECT_EQ(train_state_from_json(through_text(to_json(state)), ""), state) << seconds;
  }
  Lineage lineage = some_lineage();
  lineage.held_out_test = 0.1 + 0.2 - 0.25;
  EXPECT_EQ(lineage_from_json(through_text(to_json(lineage)), ""), lineage);
}

TEST(Documents, KeysOfALaterVersionAreLeftAlone) {
  json later = to_json(some_state(3));
  later["weather"] = {{"plateau", 2}};
  EXPECT_EQ(train_state_from_json(later, ""), some_state(3));
}

TEST(Documents, WhatIsWrongIsNamedWithFileAndKey) {
  const auto state = [](const json& value) { train_state_from_json(value, "the/file"); };
  const auto lineage = [](const json& value) { lineage_from_json(value, "the/file"); };
  const auto card = [](const json& value) { model_card_from_json(value, "the/file"); };
  struct Case {
    json good;
    std::function<void(const json&)> read;
    const char* at;
    json bad;
    const char* key;
  };
  const json s = to_json(some_state(3)), l = to_json(some_lineage()), c = to_json(some_card());
  const std::vector<Case> cases = {
      {s, state, "/samples", -1, "\"samples\""},
      {s, state, "/step", 1.5, "\"step\""},
      {s, state, "/step", uint64_t{1} << 63, "\"step\""},
      {s, state, "/seconds", nullptr, "\"seconds\""},
      {s, state, "/seed", -1, "\"seed\""},
      {s, state, "/worlds", 3, "\"worlds\""},
      {s, state, "/worlds/0", 3, "\"worlds\""},
      {s, state, "/worlds/0/world", 0, "\"world\""},
      {s, state, "/worlds/0/world", int64_t{1} << 40, "\"world\""},
      {s, state, "/job", "not a digest", "\"job\""},
      {s, state, "/schedule/lr", "0.1", "\"lr\""},
      {s, state, "/schedule/rollbacks", -1, "\"rollbacks\""},
      {s, state, "/schedule/reached", "x", "\"reached\""},
      {s, state, "/schedule/warmup_end/samples", 1.5, "\"samples\""},
      {s, state, "/schedule/origin/samples", -1, "\"samples\""},
      {s, state, "/schedule/warmup/waited", 0.5, "\"waited\""},
      {s, state, "/schedule/noise/sum", "1", "\"sum\""},
      {s, state, "/loss_scale/scale", nullptr, "\"scale\""},
      {l, lineage, "/parent", "x", "\"parent\""},
      {l, lineage, "/job", "", "\"job\""},
      {l, lineage, "/increments/1/seen", "2", "\"seen\""},
      {l, lineage, "/increments/0/digest", std::string(32, 'X'), "\"digest\""},
      {l, lineage, "/test", 1.5, "\"test\""},
      {l, lineage, "/held_out_test", -0.1, "\"held_out_test\""},
      {l, lineage, "/split_by", 1, "\"split_by\""},
      {c, card, "/model", 1, "\"model\""},
      {c, card, "/options", "hidden", "\"options\""},
      {c, card, "/classes/2", 10, "\"classes\""},
      {c, card, "/sample_shape/0", -1, "\"sample_shape\""},
      {c, card, "/std", "1", "\"std\""},
  };
  const auto expect_error = [](const Case& test, const json& value) {
    try {
      test.read(value);
      ADD_FAILURE() << "accepted " << value.dump();
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ExitCode::kBadInput);
      EXPECT_EQ(error.details().where, "the/file");
      EXPECT_THAT(error.summary(), HasSubstr(test.key));
    }
  };
  for (const Case& test : cases) {
    const json::json_pointer at(test.at);
    json changed = test.good;
    changed[at] = test.bad;
    expect_error(test, changed);
    if (changed[at.parent_pointer()].is_object()) {
      changed[at.parent_pointer()].erase(at.back());
      expect_error(test, changed);
    }
  }
  EXPECT_THROW(state(json::array()), Error);
  EXPECT_THROW(lineage(json("text")), Error);
}

}  // namespace
}  // namespace rekindle
