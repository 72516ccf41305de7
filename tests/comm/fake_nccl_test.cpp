// SPDX-License-Identifier: Apache-2.0
// The fake refuses what it says it does: each rule is broken once, by calls of the table.
#include "fake_nccl.h"

#include <gmock/gmock.h>

#include <array>
#include <thread>

namespace rekindle {
namespace {

using testing::Contains;
using testing::HasSubstr;
using testing::IsEmpty;

// Two ranks of one thread, up to a communicator, memory and a stream each.
class FakeNcclRules : public testing::Test {
 protected:
  static constexpr size_t kBytes = 8192, kCount = 16;

  void SetUp() override {
    fake_.set_polls(1);
    for (int r = 0; r < 2; ++r) table_[r] = fake_.functions(r);
    NcclId id;
    on(0);
    ASSERT_EQ(table_[0].get_unique_id(&id), NcclResult::kSuccess);
    for (int r = 0; r < 2; ++r) on(r), table_[r].comm_init_rank(&comm_[r], 2, id, r);
    for (int r = 0; r < 2; ++r) ASSERT_EQ(poll(r), NcclResult::kSuccess);
    for (int r = 0; r < 2; ++r) {
      on(r);
      ASSERT_EQ(table_[r].mem_alloc(&memory_[r], kBytes), NcclResult::kSuccess);
      table_[r].make_stream(&stream_[r]);
      table_[r].make_event(&before_[r]);
      table_[r].make_event(&after_[r]);
      follow_caller(r);
    }
  }

  void on(int r) { table_[r].set_device(); }
  void follow_caller(int r) {
    on(r);
    table_[r].record_event(before_[r], table_[r].current_stream());
    table_[r].wait_event(stream_[r], before_[r]);
  }
  NcclResult poll(int r) {
    NcclResult state = NcclResult::kInProgress;
    for (int i = 0; i < 10 && state == NcclResult::kInProgress; ++i)
      table_[r].get_async_error(comm_[r], &state);
    return state;
  }
  NcclResult sum(int r, size_t count = kCount, NcclType type = NcclType::kFloat32) {
    on(r);
    return table_[r].all_reduce(memory_[r], memory_[r], count, type, NcclOp::kSum, comm_[r], stream_[r]);
  }
  void let_caller_wait(int r) {
    on(r);
    table_[r].record_event(after_[r], stream_[r]);
    table_[r].wait_event(table_[r].current_stream(), after_[r]);
  }
  float* values(int r) { return static_cast<float*>(memory_[r]); }
  void expect_complaint(const std::string& text) {
    EXPECT_THAT(fake_.complaints(), Contains(HasSubstr(text)));
  }

  FakeNccl fake_{2};
  std::array<NcclFunctions, 2> table_;
  std::array<NcclComm, 2> comm_{};
  std::array<void*, 2> memory_{};
  std::array<GpuStream, 2> stream_{};
  std::array<GpuEvent, 2> before_{}, after_{};
};

TEST_F(FakeNcclRules, WhatIsRightIsDoneOnceItIsWaitedFor) {
  values(0)[3] = 1, values(1)[3] = 2;
  for (int r = 0; r < 2; ++r) sum(r), poll(r);
  EXPECT_EQ(values(0)[3], 1);  // nobody waited
  let_caller_wait(0);
  EXPECT_EQ(values(0)[3], 3);
  EXPECT_THAT(fake_.complaints(), IsEmpty());
}

TEST_F(FakeNcclRules, NoDevice) {
  std::thread([&] {
    table_[0].all_reduce(memory_[0], memory_[0], 1, NcclType::kFloat32, NcclOp::kSum, comm_[0], stream_[0]);
  }).join();
  expect_complaint("without the device set");
}

TEST_F(FakeNcclRules, InProgress) {
  fake_.hang(0, "ncclAllReduce", 1);
  EXPECT_EQ(sum(0), NcclResult::kInProgress);
  EXPECT_EQ(sum(0), NcclResult::kInvalidUsage);
  expect_complaint("while the communicator is in progress");
}

TEST_F(FakeNcclRules, AStreamThatNcclHasNotEndedWith) {
  fake_.set_polls(5);
  while (sum(0) == NcclResult::kSuccess) {
  }
  table_[0].record_event(after_[0], stream_[0]);
  expect_complaint("on a stream that NCCL has not ended with");
}

TEST_F(FakeNcclRules, TheCallerIsNotWaitedFor) {
  fake_.caller_ran(0);
  sum(0);
  expect_complaint("does not wait for what the caller did before");
}

TEST_F(FakeNcclRules, AnotherSizeTypeOrKind) {
  sum(0), poll(0);
  sum(1, kCount - 1), poll(1);
  fake_.release(0, Error("released"));
  EXPECT_THROW(let_caller_wait(0), Error);
  expect_complaint("rank 1 does ncclAllReduce of 15 of type 7");
  EXPECT_EQ(poll(0), NcclResult::kInvalidUsage);
  EXPECT_EQ(poll(1), NcclResult::kInvalidUsage);
}

TEST_F(FakeNcclRules, PollingInsideAGroup) {
  on(0);
  table_[0].group_start();
  poll(0);
  expect_complaint("polled inside a group");
}

TEST_F(FakeNcclRules, AGroupThatIsLeftOpen) {
  on(0);
  table_[0].group_start();
  fake_.caller_ran(0);
  expect_complaint("a group was left open");
}

TEST_F(FakeNcclRules, SendsThatNobodyReceives) {
  const auto to_peer = [&](int r, bool receives) {
    on(r);
    table_[r].group_start();
    table_[r].send(memory_[r], kCount, NcclType::kFloat32, 1 - r, comm_[r], stream_[r]);
    if (receives) {
      table_[r].recv(values(r) + kCount, kCount, NcclType::kFloat32, 1 - r, comm_[r], stream_[r]);
    }
    table_[r].group_end();
    poll(r);
  };
  to_peer(0, true), to_peer(1, false);
  let_caller_wait(0);
  expect_complaint("what rank 0 sends to rank 1 is not what that receives");
}

TEST_F(FakeNcclRules, MemoryOfAnother) {
  std::array<float, kCount> own{};
  on(0);
  table_[0].all_reduce(own.data(), own.data(), kCount, NcclType::kFloat32, NcclOp::kSum, comm_[0],
                       stream_[0]);
  expect_complaint("of memory that is not of this GPU");
  const at::Tensor cached = fake_.cached_tensor(0, kCount, at::kFloat);
  table_[0].all_reduce(cached.data_ptr(), cached.data_ptr(), kCount, NcclType::kFloat32, NcclOp::kSum,
                       comm_[0], stream_[0]);
  expect_complaint("record_stream was not told of");
  on(0);
  table_[0].reduce_scatter(values(0), values(0) + 1, kCount, NcclType::kFloat32, NcclOp::kSum, comm_[0],
                           stream_[0]);
  expect_complaint("overlaps itself");
}

TEST_F(FakeNcclRules, OneRankHasRegisteredItsMemory) {
  void* handle = nullptr;
  on(0);
  ASSERT_EQ(table_[0].comm_register(comm_[0], memory_[0], kBytes, &handle), NcclResult::kSuccess);
  for (int r = 0; r < 2; ++r) sum(r), poll(r);
  fake_.release(0, Error("released"));
  EXPECT_THROW(let_caller_wait(0), Error);
  expect_complaint("in memory that is not registered, rank 0 ncclAllReduce");
}

TEST_F(FakeNcclRules, WindowsInAnotherOrder) {
  std::array<void*, 2> handles{};
  on(0);
  table_[0].window_register(comm_[0], memory_[0], kBytes, &handles[0]);
  on(1);
  EXPECT_EQ(table_[1].window_register(comm_[1], memory_[1], kBytes / 2, &handles[1]),
            NcclResult::kInvalidUsage);
  expect_complaint("registered in another order");
  EXPECT_EQ(poll(0), NcclResult::kInvalidArgument);
}

TEST_F(FakeNcclRules, TheEnd) {
  for (int r = 0; r < 2; ++r) sum(r), poll(r);
  on(0);
  table_[0].comm_finalize(comm_[0]);
  expect_complaint("with work on its way");
  table_[0].comm_destroy(comm_[0]);
  expect_complaint("which then waits for others");
  let_caller_wait(0), let_caller_wait(1);
  for (int r = 0; r < 2; ++r) on(r), table_[r].comm_finalize(comm_[r]);
  for (int r = 0; r < 2; ++r) poll(r);
  on(0);
  EXPECT_EQ(table_[0].comm_destroy(comm_[0]), NcclResult::kSuccess);
  sum(0);
  expect_complaint("on a communicator that is gone");
}

TEST_F(FakeNcclRules, MemoryThatIsStillRegistered) {
  void* handle = nullptr;
  on(0);
  table_[0].comm_register(comm_[0], memory_[0], kBytes, &handle);
  table_[0].mem_free(memory_[0]);
  expect_complaint("ncclMemFree of memory that is registered");
  table_[0].window_deregister(comm_[0], handle);
  expect_complaint("of the other kind");
  table_[0].comm_finalize(comm_[0]);
  expect_complaint("a communicator that has memory");
}

}  // namespace
}  // namespace rekindle
