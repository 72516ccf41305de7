// SPDX-License-Identifier: Apache-2.0
#include <gmock/gmock.h>

#include <random>

#include "tests/job/job_files.h"

namespace rekindle {
namespace {

using ::testing::HasSubstr;
using HostileTest = JobTest;

std::string repeated(const std::string& text, int times) {
  std::string out;
  for (int i = 0; i < times; ++i) out += text;
  return out;
}

TEST_F(HostileTest, DeepNestingIsAnErrorAndNoCrash) {
  const int n = 100000;
  const std::vector<std::string> texts{
      "a = " + repeated("[", n),
      "a = " + repeated("{a=", n),
      "a = [\"\"\"x\"\"\"\", " + repeated("[", n),  // a long string may end with quotes of its own
      "a = 'it''s' # \"\nb = " + repeated("[", n),
      "a" + repeated(".a", n) + " = 1",
      "[a" + repeated(" . \"a\"", n) + "]",
      "[[a" + repeated(".a", n) + "]]",
      "a = {a" + repeated(".a", n) + " = 1}",
  };
  for (const std::string& text : texts) {
    EXPECT_THAT(mistakes(text).back(), HasSubstr("nested too deeply")) << text.substr(0, 40);
    EXPECT_THAT(
        mistakes(kSmallJob, {"model.a=" + text.substr(text.find('=') + 1), text.substr(0, 200) + "=1"})[1],
        HasSubstr("override"))
        << text.substr(0, 40);
  }
  EXPECT_EQ(mistakes("[run]\n\xc3\xa4 = " + repeated("[", 40))[1],
            "job.toml:2:37: nested too deeply, expected at most 32 levels");
}

TEST_F(HostileTest, BracketsAndDotsInTextDoNotNest) {
  const std::string many = repeated("[{.", 60);
  const std::string text = "# " + many + "\n" + kSmallJob + "[model]\nname = \"own\"\na = \"" + many +
                           "\\\"[\"\nb = '" + many + "'\nc = \"\"\"\n\"" + many + "\n\"\"\"\nd = '''" + many +
                           "'\n'''\ne = " + repeated("[", 1) + repeated("1, ", 5000) + "]\n";
  const Job job = read(text);
  EXPECT_EQ(job.model.text("b", ""), many);
  EXPECT_EQ(job.model.integers("e", {}).size(), 5000u);
}

TEST_F(HostileTest, DamagedFilesAreReadOrRefusedButNeverCrash) {
  std::mt19937 random(11);
  const auto below = [&](size_t limit) { return static_cast<size_t>(random() % limit); };
  const std::string source = kFullJob;
  const std::string pieces = "[]{}=\".'#,\n\\ 019eE+-_\t\r\x01\x7f\xff\xc3";
  int refused = 0;
  for (int i = 0; i < 2000; ++i) {
    std::string text = source;
    for (size_t changes = 1 + below(4); changes > 0; --changes) {
      const size_t at = below(text.size());
      switch (below(4)) {
        case 0:
          text[at] = pieces[below(pieces.size())];
          break;
        case 1:
          text.insert(at, 1, pieces[below(pieces.size())]);
          break;
        case 2:
          text.erase(at, 1 + below(20));
          break;
        default:
          text.insert(at, text.substr(below(text.size()), below(30)));
          break;
      }
    }
    try {
      read(text);
    } catch (const Error& error) {
      ASSERT_EQ(error.code(), ExitCode::kBadInput) << text;
      ASSERT_THAT(error.summary(), HasSubstr("in the job\n"));
      ++refused;
    }
  }
  EXPECT_GT(refused, 1000);
  EXPECT_LT(refused, 2000);  // a change in a comment or a text is none
}

TEST_F(HostileTest, LongNamesAndValuesAreShortenedInMessages) {
  const std::string longest(500000, 'a');
  for (const std::string& found : mistakes(kSmallJob + longest + " = 1\nseed = \"" + longest + "\"\n")) {
    EXPECT_LT(found.size(), 400u);
    EXPECT_THAT(found, ::testing::AnyOf(HasSubstr("aaa..."), HasSubstr("in the job")));
  }
  EXPECT_LT(mistakes(kSmallJob, {longest + "=" + longest})[1].size(), 400u);
}

}  // namespace
}  // namespace rekindle
