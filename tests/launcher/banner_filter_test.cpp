// SPDX-License-Identifier: Apache-2.0
#include "launcher/banner_filter.h"

#include <gtest/gtest.h>

namespace rekindle {
namespace {

const std::string kDashes = std::string(74, '-') + "\n";

std::string banner(const std::string& text) {
  return kDashes + text + kDashes;
}

const std::string kPrimary = banner(
    "Primary job  terminated normally, but 1 process returned\n"
    "a non-zero exit code. Per user-direction, the job has been aborted.\n");
const std::string kKilled =
    banner("mpirun noticed that process rank 1 with PID 0 on node vm exited on signal 9 (Killed).\n");
const std::string kCode = banner(
    "mpirun detected that one or more processes exited with non-zero status, thus causing\n"
    "the job to be terminated. The first process to do so was:\n\n"
    "  Process name: [[26586,1],3]\n  Exit code:    75\n");
const std::string kAbort = banner(
    "MPI_ABORT was invoked on rank 2 in communicator MPI_COMM_WORLD\nwith errorcode 78.\n\n"
    "NOTE: invoking MPI_ABORT causes Open MPI to kill all MPI processes.\n");
const std::string kImproper = banner(
    "mpirun has exited due to process rank 4 with PID 0 on\n"
    "node vm exiting improperly. There are three reasons this could occur:\n\n1. ...\n");

struct Filtered {
  std::string text;
  std::optional<RankEnd> end;
};

Filtered filtered(const std::string& text) {
  BannerFilter filter;
  std::string passed = filter.take(text);
  passed += filter.finish();
  return {passed, filter.first_end()};
}

TEST(BannerFilter, TakesBannersOutAndKeepsWhatTheySay) {
  const Filtered killed = filtered("before\n" + kPrimary + kKilled + "after\n");
  EXPECT_EQ(killed.text, "before\nafter\n");
  ASSERT_TRUE(killed.end);
  EXPECT_EQ(killed.end->rank, 1);
  EXPECT_EQ(killed.end->signal, 9);

  const Filtered code = filtered(kPrimary + kCode);
  EXPECT_EQ(code.text, "");
  ASSERT_TRUE(code.end);
  EXPECT_EQ(code.end->rank, 3);
  EXPECT_EQ(code.end->signal, 0);
  EXPECT_EQ(code.end->code, 75);

  const Filtered improper = filtered(kImproper);
  EXPECT_EQ(improper.text, "");
  ASSERT_TRUE(improper.end);
  EXPECT_EQ(improper.end->rank, 4);
  EXPECT_FALSE(improper.end->code);
}

TEST(BannerFilter, OpenMpiMayNotSayWhichRank) {
  const Filtered unknown = filtered(kPrimary);
  EXPECT_EQ(unknown.text, "");
  EXPECT_FALSE(unknown.end);
}

TEST(BannerFilter, TheFirstBannerThatNamesARankHolds) {
  const Filtered both = filtered(kAbort + kKilled);
  EXPECT_EQ(both.text, "");
  ASSERT_TRUE(both.end);
  EXPECT_EQ(both.end->rank, 2);
  EXPECT_EQ(both.end->code, 78);
}

TEST(BannerFilter, LinesMayBeWrapped) {
  const Filtered wrapped =
      filtered(banner("mpirun noticed that process rank 12 with PID 345 on\nnode a-very-long-name exited "
                      "on\nsignal 11 (Segmentation fault).\n"));
  ASSERT_TRUE(wrapped.end);
  EXPECT_EQ(wrapped.end->rank, 12);
  EXPECT_EQ(wrapped.end->signal, 11);
}

TEST(BannerFilter, DropsTheChatterOfOpenMpi) {
  const std::string explains =
      "[vm:07945] Set MCA parameter \"orte_base_help_aggregate\" to 0 to see all messages\n";
  const std::string counts = "[vm:07945] 1 more process has sent help message help-mpi-api.txt / mpi-abort\n";
  const std::string garbled =
      "[vm:11067] [[18373,0],0] ORTE_ERROR_LOG: Data unpack would read past end of buffer in "
      "file ../../../orte/util/show_help.c at line 513\n";
  EXPECT_EQ(filtered(kAbort + counts + explains).text, "");
  EXPECT_EQ(filtered("a\n" + garbled + "b\nmpirun: Forwarding signal 12 to job\nc\n").text, "a\nb\nc\n");
  const std::string other =
      "[vm:07945] 1 more process has sent help message help-mpi-errors.txt / fatal\n" + explains;
  EXPECT_EQ(filtered(other).text, other);
}

TEST(BannerFilter, OtherTextPassesUntouched) {
  const std::string texts[] = {
      "",
      "plain\n",
      "no end of line",
      "progress 1\rprogress 2\r",
      kDashes,
      kDashes + kDashes,
      banner("There are not enough slots available in the system\n"),
      kDashes + "Primary job  terminated normally, but the block never closes\n",
      kDashes + "mpirun noticed that process rank\n" + std::string(100, '\n') + "end\n",
      "mpirun noticed that process rank 1 with PID 0 on node vm exited on signal 9 (Killed).\n",
  };
  for (const std::string& text : texts) {
    const Filtered result = filtered(text);
    EXPECT_EQ(result.text, text);
    EXPECT_FALSE(result.end) << text;
  }
  // A line of dashes that somebody else wrote does not hide the banner behind it.
  EXPECT_EQ(filtered(kDashes + kKilled).text, kDashes);
}

TEST(BannerFilter, PassesALineOnAsSoonAsItIsComplete) {
  BannerFilter filter;
  EXPECT_EQ(filter.take("step 1\nste"), "step 1\n");
  EXPECT_EQ(filter.take("p 2\n"), "step 2\n");
  EXPECT_EQ(filter.take("3 %\r"), "3 %\r");
}

TEST(BannerFilter, ItDoesNotMatterHowTheBytesArrive) {
  const std::string text = "a\n" + kPrimary + "b\n" + kCode + kDashes + "c\n";
  for (size_t cut = 0; cut <= text.size(); ++cut) {
    BannerFilter filter;
    std::string passed = filter.take(text.substr(0, cut));
    passed += filter.take(text.substr(cut));
    passed += filter.finish();
    ASSERT_EQ(passed, "a\nb\n" + kDashes + "c\n") << "cut at " << cut;
    ASSERT_EQ(filter.first_end()->rank, 3);
  }
}

}  // namespace
}  // namespace rekindle
