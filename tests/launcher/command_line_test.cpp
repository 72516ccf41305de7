// SPDX-License-Identifier: Apache-2.0
#include "launcher/command_line.h"

#include <gtest/gtest.h>

#include "core/error.h"

namespace rekindle {
namespace {

CommandLine parse(std::vector<const char*> words) {
  words.insert(words.begin(), "rekindle");
  return parse_command_line(static_cast<int>(words.size()), words.data());
}

std::string usage_error(const std::vector<const char*>& words) {
  try {
    parse(words);
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ExitCode::kUsage);
    return error.what();
  }
  ADD_FAILURE() << "no error";
  return "";
}

TEST(CommandLine, ReadsRun) {
  const RunCommand run =
      parse({"run", "job.toml", "-n", "3", "--worker", "./w", "a=[1,2]", "--dry-run", "b=x=y", "--exit-code"})
          .run;
  EXPECT_EQ(run.job, "job.toml");
  EXPECT_EQ(run.workers, 3);
  EXPECT_EQ(run.worker, "./w");
  EXPECT_TRUE(run.dry_run);
  EXPECT_TRUE(run.exit_code);
  EXPECT_EQ(run.overrides, (std::vector<std::string>{"a=[1,2]", "b=x=y"}));
}

TEST(CommandLine, DefaultsLeaveItToTheJob) {
  const CommandLine line = parse({"run", "job.toml"});
  EXPECT_EQ(line.answer, "");
  EXPECT_FALSE(line.run.workers);
  EXPECT_FALSE(line.run.dry_run);
  EXPECT_TRUE(line.run.overrides.empty());
}

TEST(CommandLine, AnswersHelpAndVersion) {
  EXPECT_TRUE(parse({"--version"}).answer.starts_with("rekindle "));
  EXPECT_NE(parse({"--help"}).answer.find("run"), std::string::npos);
  EXPECT_NE(parse({"run", "--help"}).answer.find("--dry-run"), std::string::npos);
}

TEST(CommandLine, NamesWhatIsWrong) {
  EXPECT_NE(usage_error({}).find("a command is missing"), std::string::npos);
  EXPECT_NE(usage_error({"plan", "job.toml"}).find("no command 'plan'"), std::string::npos);
  EXPECT_NE(usage_error({"runn", "job.toml"}).find("did you mean 'run'?"), std::string::npos);
  EXPECT_NE(usage_error({"run"}).find("JOB"), std::string::npos);
  EXPECT_NE(usage_error({"run", "job.toml", "--dryrun"}).find("did you mean '--dry-run'?"),
            std::string::npos);
  EXPECT_NE(usage_error({"run", "job.toml", "seed"}).find("'seed' is not key=value"), std::string::npos);
  EXPECT_NE(usage_error({"run", "job.toml", "=2"}).find("'=2' is not key=value"), std::string::npos);
  for (const char* count : {"0", "-1", "two", "1.5", "99999999999999999999"}) {
    EXPECT_NE(usage_error({"run", "job.toml", "-n", count}).find("not a number of workers"),
              std::string::npos)
        << count;
  }
}

}  // namespace
}  // namespace rekindle
