// SPDX-License-Identifier: Apache-2.0
#include "warmstart/matching.h"

#include <gmock/gmock.h>

#include <functional>

#include "core/error.h"

namespace rekindle {
namespace {

using safetensors::DType;
using safetensors::TensorInfo;
using testing::ElementsAre;
using testing::HasSubstr;

class MatchingTest : public testing::Test {
 protected:
  void in_file(const std::string& name, std::vector<int64_t> shape = {4}, DType dtype = DType::kF32) {
    infos_.push_back({name, dtype, std::move(shape), 0, 0});
  }
  void in_model(const std::string& name, std::vector<int64_t> shape = {4}, DType dtype = DType::kF32) {
    targets_.push_back({name, std::move(shape), dtype, Target::Part::kParameter});
  }
  Matching run() {
    std::vector<const TensorInfo*> sources;
    for (const TensorInfo& info : infos_) sources.push_back(&info);
    return match(sources, targets_, options_, classes_, "file");
  }
  std::string error() {
    try {
      run();
    } catch (const Error& error) {
      return error.what();
    }
    return "no error";
  }
  // "SOURCE>TARGET" of each match.
  std::vector<std::string> pairs() {
    std::vector<std::string> pairs;
    for (const Match& match : run().matches)
      pairs.push_back(infos_[match.source].name + ">" + targets_[match.target].name);
    return pairs;
  }

  std::vector<TensorInfo> infos_;
  std::vector<Target> targets_;
  WarmStartOptions options_;
  HeadClasses classes_;
};

TEST_F(MatchingTest, EveryTensorIsInExactlyOnePlace) {
  for (const char* name : {"a", "b", "c"}) in_file(name);
  for (const char* name : {"b", "d", "c"}) in_model(name);
  EXPECT_THAT(pairs(), ElementsAre("b>b", "c>c"));
  EXPECT_THAT(run().fresh, ElementsAre(1u));
  EXPECT_THAT(run().unused, ElementsAre(0u));
}

TEST_F(MatchingTest, RulesRewriteOneAfterTheOther) {
  in_file("module.backbone.layer1.weight");
  in_file("module.head.weight");
  in_model("layer.1.weight");
  in_model("fc.weight");
  options_.rename = {{"^module\\.", ""}, {"^backbone\\.", ""}, {"layer(\\d+)", "layer.$1"}, {"^head", "fc"}};
  EXPECT_THAT(pairs(),
              ElementsAre("module.backbone.layer1.weight>layer.1.weight", "module.head.weight>fc.weight"));
  EXPECT_TRUE(run().matches[0].renamed);
}

TEST_F(MatchingTest, ARuleThatIsWrongOrMatchesNothingIsNamed) {
  in_file("a");
  in_model("a");
  options_.rename = {{"^bakcbone", ""}};
  EXPECT_THAT(error(), HasSubstr("'^bakcbone' matches no name in the parent"));
  options_.rename = {{"(a", ""}};
  EXPECT_THAT(error(), HasSubstr("'(a' is not a regular expression"));
}

TEST_F(MatchingTest, TwoTensorsMayNotGetOneName) {
  in_file("x.a");
  in_file("y.a");
  in_model("a");
  options_.rename = {{"^.\\.", ""}};
  EXPECT_THAT(error(), HasSubstr("'x.a' and 'y.a' both become 'a'"));
}

TEST_F(MatchingTest, GlobsChooseAmongTheModelsNames) {
  for (const char* name : {"body.a", "body.b", "head.a"}) {
    in_file(name);
    in_model(name);
  }
  options_.include = {"body.*"};
  EXPECT_THAT(pairs(), ElementsAre("body.a>body.a", "body.b>body.b"));
  EXPECT_THAT(run().fresh, ElementsAre(2u));
  EXPECT_THAT(run().unused, ElementsAre(2u));
  options_.exclude = {"*.b"};
  EXPECT_THAT(pairs(), ElementsAre("body.a>body.a"));
  options_.exclude = {"haed.*"};
  EXPECT_THAT(error(), HasSubstr("'haed.*' matches no tensor of the model"));
}

TEST_F(MatchingTest, WhatIsLeftOutMayHaveAnyShape) {
  in_file("head", {10, 4});
  in_model("head", {3, 4});
  EXPECT_THAT(error(), HasSubstr("tensor 'head' is [10, 4] in the file and [3, 4] in the model"));
  options_.exclude = {"head"};
  EXPECT_THAT(pairs(), ElementsAre());
}

TEST_F(MatchingTest, StatisticsAndWeightsAreChosenApart) {
  in_file("bn.weight");
  in_file("bn.running_mean");
  in_file("bn.num_batches_tracked", {}, DType::kI64);
  in_model("bn.weight");
  in_model("bn.running_mean");
  in_model("bn.num_batches_tracked", {}, DType::kI64);
  options_.batch_norm = Carry::kReset;
  EXPECT_THAT(pairs(), ElementsAre("bn.weight>bn.weight"));
  options_.weights = Carry::kReset;
  EXPECT_THAT(pairs(), ElementsAre());
  EXPECT_FALSE(is_running_statistic("my_running_mean"));
}

TEST_F(MatchingTest, OnlyFloatingPointTypesAreConverted) {
  in_file("a", {4}, DType::kBF16);
  in_model("a");
  EXPECT_TRUE(run().matches[0].converted);
  infos_[0].dtype = DType::kI8;
  EXPECT_THAT(error(), HasSubstr("is I8 in the file and F32 in the model"));
  infos_[0].dtype = DType::kI64;
  targets_[0].dtype = DType::kI32;
  EXPECT_THAT(error(), HasSubstr("is I64 in the file and I32 in the model"));
}

TEST_F(MatchingTest, RowsOfAHeadArePairedByClass) {
  in_file("head.weight", {2, 5});
  in_file("head.bias", {2});
  in_model("head.weight", {3, 5});
  in_model("head.bias", {3});
  EXPECT_THAT(error(), HasSubstr("but for a head whose classes are known"));
  classes_ = {{"cat", "dog"}, {"dog", "owl", "cat"}};
  for (const Match& match : run().matches) EXPECT_THAT(match.rows, ElementsAre(1, -1, 0));
  targets_[0].shape = {3, 6};
  EXPECT_THAT(error(), HasSubstr("tensor 'head.weight' is [2, 5] in the file and [3, 6] in the model"));
}

TEST_F(MatchingTest, OfTheSameClassesInAnotherOrderRowsFollowTheirNames) {
  in_file("head.bias", {2});
  in_model("head.bias", {2});
  classes_ = {{"cat", "dog"}, {"dog", "cat"}};
  EXPECT_THAT(run().matches[0].rows, ElementsAre(1, 0));
}

}  // namespace
}  // namespace rekindle
