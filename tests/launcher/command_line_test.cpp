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

TEST(CommandLine, ReadsPlan) {
  const PlanCommand plan =
      *parse({"plan", "job.toml", "--workers", "1,8,64", "--worker", "./w", "--json", "--schedule", "a=1"})
           .plan;
  EXPECT_EQ(plan.job, "job.toml");
  EXPECT_EQ(plan.workers, "1,8,64");
  EXPECT_EQ(plan.worker, "./w");
  EXPECT_TRUE(plan.json && plan.schedule);
  EXPECT_EQ(plan.overrides, (std::vector<std::string>{"a=1"}));
  EXPECT_FALSE(parse({"plan", "job.toml"}).look);
  EXPECT_NE(usage_error({"plan", "job.toml", "--workers", "1,,2"}).find("not a list"), std::string::npos);
  EXPECT_NE(usage_error({"plan", "job.toml", "--workers", "12345678"}).find("number of workers"),
            std::string::npos);
  EXPECT_NE(usage_error({"plan", "job.toml", "--scheduel"}).find("did you mean '--schedule'?"),
            std::string::npos);
}

TEST(CommandLine, ReadsTheCommandsThatLook) {
  for (const char* what : {"inspect", "verify", "lineage"}) {
    const LookCommand look = *parse({what, "runs/fashion", "--json"}).look;
    EXPECT_EQ(look.what, what);
    EXPECT_EQ(look.path, "runs/fashion");
    EXPECT_TRUE(look.json);
    EXPECT_NE(usage_error({what}).find("PATH"), std::string::npos);
  }
  const LookCommand diff = *parse({"diff", "a", "b"}).look;
  EXPECT_EQ(diff.what, "diff");
  EXPECT_EQ(diff.path, "a");
  EXPECT_EQ(diff.other, "b");
  EXPECT_FALSE(diff.json);
  EXPECT_NE(usage_error({"diff", "a"}).find("B is required"), std::string::npos);
}

TEST(CommandLine, NamesWhatIsWrong) {
  EXPECT_NE(usage_error({}).find("a command is missing"), std::string::npos);
  EXPECT_NE(usage_error({"sing", "job.toml"}).find("no command 'sing'"), std::string::npos);
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

TEST(CommandLine, ReadsBenchAllReduce) {
  const CommandLine line = parse({"bench", "allreduce", "-n", "2", "--bytes", "4096,65536", "--dtype",
                                  "float16", "--seconds", "0.1", "--json"});
  ASSERT_TRUE(line.bench);
  EXPECT_EQ(line.bench->what, "allreduce");
  EXPECT_EQ(line.bench->workers, 2);
  EXPECT_EQ(line.bench->bytes, "4096,65536");
  EXPECT_EQ(line.bench->dtype, "float16");
  EXPECT_EQ(line.bench->seconds, "0.1");
  EXPECT_TRUE(line.bench->json);
  EXPECT_FALSE(parse({"run", "job.toml"}).bench);
}

TEST(CommandLine, ReadsBenchStep) {
  const CommandLine line =
      parse({"bench", "step", "job.toml", "--steps", "7", "run.seed=2", "--worker", "./w", "batch.global=8"});
  ASSERT_TRUE(line.bench);
  EXPECT_EQ(line.bench->what, "step");
  EXPECT_EQ(line.bench->job, "job.toml");
  EXPECT_FALSE(line.bench->workers);
  EXPECT_EQ(line.bench->worker, "./w");
  EXPECT_EQ(line.bench->steps, "7");
  EXPECT_FALSE(line.bench->json);
  EXPECT_EQ(line.bench->overrides, (std::vector<std::string>{"run.seed=2", "batch.global=8"}));
}

TEST(CommandLine, NamesWhatIsWrongWithABench) {
  const auto has = [](const std::string& text, const char* part) {
    EXPECT_NE(text.find(part), std::string::npos) << text;
  };
  has(usage_error({"bench"}), "a bench is missing");
  has(usage_error({"bench", "alreduce", "-n", "2"}), "did you mean 'allreduce'?");
  has(usage_error({"bench", "allreduce"}), "-n is required");
  has(usage_error({"bench", "allreduce", "-n", "2", "job.toml"}), "job.toml");
  has(usage_error({"bench", "step"}), "JOB is required");
  has(usage_error({"bench", "step", "job.toml", "--steps", "0"}), "not a number of steps");
  has(usage_error({"bench", "step", "job.toml", "--step", "5"}), "did you mean '--steps'?");
  has(usage_error({"bench", "allreduce", "-n", "2", "--dtype", "float8"}), "float8");
  for (const char* bytes : {"", ",", "4096,", "4k", "0", "-4", "99999999999999999999"}) {
    has(usage_error({"bench", "allreduce", "-n", "2", "--bytes", bytes}), "--bytes");
  }
  for (const char* seconds : {"0", "-1", "soon", "inf0"}) {
    has(usage_error({"bench", "allreduce", "-n", "2", "--seconds", seconds}), "not a number above 0");
  }
}

}  // namespace
}  // namespace rekindle
