// SPDX-License-Identifier: Apache-2.0
#include "models/options.h"

#include <gtest/gtest.h>

#include "core/error.h"

namespace rekindle {
namespace {

using Strings = std::vector<std::string>;
using Integers = std::vector<int64_t>;

TEST(ModelOptions, GivesValuesByTypeAndFallbacks) {
  const ModelOptions options("net", {{"flag", true},
                                     {"width", int64_t{3}},
                                     {"rate", 0.5},
                                     {"kind", std::string("a")},
                                     {"sizes", Integers{1, 2}}});
  EXPECT_TRUE(options.boolean("flag", false));
  EXPECT_EQ(options.integer("width", 0), 3);
  EXPECT_EQ(options.real("rate", 0), 0.5);
  EXPECT_EQ(options.real("width", 0), 3.0);  // an integer will do
  EXPECT_EQ(options.text("kind", ""), "a");
  EXPECT_EQ(options.integers("sizes", {}), (Integers{1, 2}));
  EXPECT_EQ(options.integer("depth", 7), 7);
  EXPECT_EQ(options.text("name", "none"), "none");
}

TEST(ModelOptions, RefusesAnotherTypeAndNamesTheKey) {
  const ModelOptions options("net", {{"width", std::string("wide")}});
  try {
    options.integer("width", 0);
    FAIL() << "a text was taken for an integer";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ExitCode::kBadInput);
    EXPECT_EQ(error.summary(), "model.width has the wrong type, expected an integer");
  }
  EXPECT_THROW(options.real("width", 0), Error);
  EXPECT_THROW(options.boolean("width", false), Error);
  EXPECT_THROW(options.integers("width", {}), Error);
}

TEST(ModelOptions, RemembersWhatWasRead) {
  const ModelOptions options("net", {{"a", true}, {"b", int64_t{3}}, {"c", int64_t{3}}});
  EXPECT_EQ(options.unread(), (Strings{"a", "b", "c"}));
  options.integer("b", 0);
  options.real("c", 0);
  options.integer("missing", 0);
  EXPECT_EQ(options.unread(), Strings{"a"});
}

TEST(ModelOptions, BuiltInModels) {
  EXPECT_EQ(built_in_models(), (Strings{"logistic", "mlp", "resnet18"}));
  EXPECT_EQ(built_in_model_keys("mlp"), (Strings{"batch_norm", "dropout", "hidden"}));
  EXPECT_EQ(built_in_model_keys("logistic"), Strings{});
  EXPECT_EQ(built_in_model_keys("my-net"), Strings{});
  EXPECT_EQ(std::get<Integers>(built_in_model_defaults("mlp").at("hidden")), (Integers{100, 100}));
}

}  // namespace
}  // namespace rekindle
