// SPDX-License-Identifier: Apache-2.0
#include <gmock/gmock.h>

#include <atomic>

#include "comm/thread_communicator.h"
#include "conformance.h"
#include "core/error.h"

namespace rekindle {
namespace {

class ThreadConformance : public testing::TestWithParam<int> {};

TEST_P(ThreadConformance, DoesWhatEveryCommunicatorDoes) {
  for (const auto& [name, check] : conformance_checks()) {
    SCOPED_TRACE(name);
    EXPECT_NO_THROW(run_as_threads(GetParam(), {}, check));
  }
}

TEST_P(ThreadConformance, MisuseEndsInANamedErrorOnEveryRank) {
  if (GetParam() == 1) return;  // nobody to disagree with
  for (const auto& [name, misuse] : conformance_misuses()) {
    SCOPED_TRACE(name);
    std::atomic<int> named = 0;
    const CommOptions impatient{.deadline = std::chrono::milliseconds(300)};
    run_as_threads(GetParam(), impatient, [&](Communicator& communicator) {
      try {
        misuse(communicator);
      } catch (const Error& error) {
        named += is_named(error);
      }
    });
    EXPECT_EQ(named, GetParam());
  }
}

INSTANTIATE_TEST_SUITE_P(Worlds, ThreadConformance, testing::Values(1, 2, 3, 4, 5, 8));

TEST(ThreadCommunicator, TheFirstErrorIsTheOneThatIsThrown) {
  try {
    run_as_threads(3, {}, [](Communicator& communicator) {
      if (communicator.rank() == 2) throw Error("rank two is out");
      communicator.barrier("never");
    });
    FAIL();
  } catch (const Error& error) {
    EXPECT_STREQ(error.what(), "rank two is out");
  }
}

}  // namespace
}  // namespace rekindle
