// SPDX-License-Identifier: Apache-2.0
#include "launcher/compose.h"

#include <gtest/gtest.h>

namespace rekindle {
namespace {

const RunCommand kCommand{.job = "my job.toml",
                          .workers = {},
                          .worker = {},
                          .dry_run = false,
                          .exit_code = true,
                          .overrides = {"run.seed=2", "model.hidden=[1, 2]"}};

TEST(Compose, RunsMpirunOnThisMachine) {
  const Launch launch = compose_mpirun(
      kCommand, 3, 4, {.mpirun = "/usr/bin/mpirun", .worker = "/opt/w", .root = false, .set = {}});
  EXPECT_EQ(launch.program, "/usr/bin/mpirun");
  EXPECT_EQ(shell_line(launch),
            "OMP_NUM_THREADS=4 GLIBC_TUNABLES=glibc.malloc.hugetlb=1 mpirun -n 3 --bind-to none "
            "--oversubscribe --mca pml ob1 --mca btl self,vader "
            "--mca plm isolated /opt/w 'my job.toml' --exit-code run.seed=2 'model.hidden=[1, 2]'");
}

TEST(Compose, RunsABenchAsTheJobWouldRun) {
  const Surroundings surroundings{.mpirun = "/usr/bin/mpirun", .worker = "/w", .root = false, .set = {}};
  const std::string mpirun =
      "OMP_NUM_THREADS=1 GLIBC_TUNABLES=glibc.malloc.hugetlb=1 mpirun -n 2 --bind-to none --oversubscribe "
      "--mca pml ob1 --mca btl self,vader "
      "--mca plm isolated /w ";
  BenchCommand command;
  command.what = "allreduce";
  command.bytes = "4096";
  command.json = true;
  EXPECT_EQ(shell_line(compose_mpirun(command, 2, 1, 1.5, surroundings)),
            mpirun + "--bench allreduce --bytes 4096 --json");
  command = {};
  command.what = "step";
  command.job = "job.toml";
  command.steps = "5";
  command.overrides = {"run.seed=2"};
  const Launch launch = compose_mpirun(command, 2, 1, 1.5, surroundings);
  EXPECT_EQ(shell_line(launch), mpirun + "--bench step --steps 5 --launched 1.500000 job.toml run.seed=2");
  EXPECT_FALSE(launch.saves);
}

TEST(Compose, TellsOpenMpiThatRootIsMeant) {
  const Launch launch =
      compose_mpirun(kCommand, 1, 1, {.mpirun = "/m", .worker = "/w", .root = true, .set = {}});
  EXPECT_TRUE(shell_line(launch).starts_with("OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 "));
}

TEST(Compose, LeavesAloneWhatTheUserSet) {
  const Launch launch = compose_mpirun(kCommand, 1, 1,
                                       {.mpirun = "/m",
                                        .worker = "/w",
                                        .root = false,
                                        .set = {"OMP_NUM_THREADS", "GLIBC_TUNABLES", "OMPI_MCA_btl"}});
  EXPECT_TRUE(launch.environment.empty());
  const std::string line = shell_line(launch);
  EXPECT_NE(line.find("--mca pml ob1"), std::string::npos);
  EXPECT_EQ(line.find("btl"), std::string::npos);
}

TEST(Compose, QuotesForTheShell) {
  const Launch launch{.program = "/bin/p",
                      .arguments = {"plain-1=a/b:c", "", "a b", "it's", "$HOME", "~", "*"},
                      .environment = {{"A", "x y"}}};
  EXPECT_EQ(shell_line(launch), R"(A='x y' p plain-1=a/b:c '' 'a b' 'it'\''s' '$HOME' '~' '*')");
}

}  // namespace
}  // namespace rekindle
