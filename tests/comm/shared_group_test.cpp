// SPDX-License-Identifier: Apache-2.0
#include "comm/shared_group.h"

#include <gmock/gmock.h>

#include <cstring>
#include <memory>
#include <thread>
#include <vector>

#include "core/error.h"

namespace rekindle {
namespace {

using std::chrono::milliseconds;
using testing::HasSubstr;

class Memory {
 public:
  explicit Memory(size_t bytes) : bytes_(new (std::align_val_t{64}) std::byte[bytes]()) {}
  ~Memory() { ::operator delete[](bytes_, std::align_val_t{64}); }
  std::byte* get() { return bytes_; }

 private:
  std::byte* bytes_;
};

// Runs `rank_main` on a thread for each rank and returns what each threw.
template <typename Main>
std::vector<std::string> run(int world, milliseconds deadline, const Main& rank_main) {
  Memory memory(SharedGroup::bytes_for(world));
  std::vector<std::string> errors(world);
  std::vector<std::thread> threads;
  for (int rank = 0; rank < world; ++rank) {
    threads.emplace_back([&, rank] {
      SharedGroup group(memory.get(), rank, world, {.deadline = deadline});
      try {
        rank_main(group);
      } catch (const Error& error) {
        errors[rank] = error.what();
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  return errors;
}

TEST(SharedGroup, WhatWasWrittenBeforeAPostIsSeenAfterItsWait) {
  for (const int world : {1, 2, 3, 8}) {
    std::vector<int> written(world, -1);
    const auto errors = run(world, milliseconds(60000), [&](SharedGroup& group) {
      for (int round = 0; round < 300; ++round) {
        written[group.rank()] = round;
        group.wait(group.post('a'), "write");
        for (int rank = 0; rank < world; ++rank) {
          if (written[rank] != round) throw Error("rank " + std::to_string(rank) + " was not waited for");
        }
        group.wait(group.post('b'), "read");
      }
    });
    for (const std::string& error : errors) EXPECT_EQ(error, "");
  }
}

TEST(SharedGroup, RanksMayRunAheadOfTheirWaits) {
  const auto errors = run(2, milliseconds(60000), [&](SharedGroup& group) {
    std::vector<uint64_t> posted;
    for (int i = 0; i < SharedGroup::kMostOutstanding; ++i) posted.push_back(group.post('g', 6, i));
    for (const uint64_t operation : posted) group.wait(operation, "bucket");
  });
  for (const std::string& error : errors) EXPECT_EQ(error, "");
}

TEST(SharedGroup, ARankThatIsMissingIsNamed) {
  const auto errors = run(3, milliseconds(200), [&](SharedGroup& group) {
    if (group.rank() == 1) return;
    group.wait(group.post('a'), "gradient sum");
  });
  EXPECT_THAT(errors[0], HasSubstr("'gradient sum' was not reached within 0.2"));
  EXPECT_THAT(errors[0], HasSubstr("by rank 1"));
  EXPECT_THAT(errors[2], HasSubstr("by rank 1"));
}

TEST(SharedGroup, DifferentCallsAreNamedOnEveryRank) {
  const auto errors = run(2, milliseconds(60000), [&](SharedGroup& group) {
    group.wait(group.post(group.rank() == 0 ? 'a' : 'b', 6, 10), "x");
  });
  for (const std::string& error : errors)
    EXPECT_THAT(error, HasSubstr("ranks disagree about what comes next"));
  const auto sizes = run(2, milliseconds(60000),
                         [&](SharedGroup& group) { group.wait(group.post('a', 6, 10 + group.rank()), "x"); });
  for (const std::string& error : sizes) EXPECT_THAT(error, HasSubstr("of 11 elements"));
  const auto places = run(3, milliseconds(60000), [&](SharedGroup& group) {
    group.wait(group.post('a', 6, 10, group.rank() == 2 ? 4096 : 0), "x");
  });
  for (const std::string& error : places) EXPECT_THAT(error, HasSubstr("from 4096"));
}

TEST(SharedGroup, AnAbortEndsTheOthersWaits) {
  const auto errors = run(2, milliseconds(60000), [&](SharedGroup& group) {
    if (group.rank() == 1) return group.abort();
    group.wait(group.post('a'), "gradient sum");
  });
  EXPECT_THAT(errors[0], HasSubstr("rank 1 failed while this rank waited in 'gradient sum'"));
}

TEST(SharedGroup, AnAbortEndsTheWaitsOfTheGroupsWithinToo) {
  Memory within(SharedGroup::bytes_for(2));
  const auto errors = run(3, milliseconds(60000), [&](SharedGroup& group) {
    if (group.rank() == 2) return group.abort();
    SharedGroup two(within.get(), group.rank(), 2,
                    {.deadline = milliseconds(60000), .crowd = 3, .names = {5, 7}, .parent = &group});
    if (group.rank() == 0) two.wait(two.post('a'), "sum of two");
  });
  EXPECT_THAT(errors[0], HasSubstr("rank 2 failed while this rank waited in 'sum of two'"));
}

TEST(SharedGroup, RanksAreCalledAsTheyAreInTheWorld) {
  Memory within(SharedGroup::bytes_for(2));
  SharedGroup two(within.get(), 0, 2,
                  {.deadline = milliseconds(50), .crowd = 0, .names = {4, 7}, .parent = nullptr});
  try {
    two.wait(two.post('a'), "sum of two");
    FAIL();
  } catch (const Error& error) {
    EXPECT_THAT(error.what(), HasSubstr("by rank 7"));
    EXPECT_EQ(error.details().where, "rank 4");
  }
}

}  // namespace
}  // namespace rekindle
