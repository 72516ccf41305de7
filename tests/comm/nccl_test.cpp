// SPDX-License-Identifier: Apache-2.0
#include <ATen/ops/equal.h>
#include <ATen/ops/zeros.h>
#include <gmock/gmock.h>

#include <cmath>
#include <condition_variable>
#include <map>
#include <mutex>
#include <thread>

#include "comm/gradient_reducer.h"
#include "comm/nccl_library.h"
#include "comm/nccl_sums.h"
#include "core/error.h"
#include "nccl_support.h"

namespace rekindle {
namespace {

using testing::Contains;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::Not;
using testing::SizeIs;

CommOptions with_deadline(int milliseconds) {
  CommOptions options;
  options.deadline = std::chrono::milliseconds(milliseconds);
  return options;
}

// ---- sums ----

float leaf_value(int leaf, int64_t i) {
  return std::sin(static_cast<float>(i * 7 + leaf * 13)) * std::exp2(static_cast<float>((i + leaf) % 20));
}

// Of one node of the tree, added from its halves.
at::Tensor subtree_sum(Subtree node, int64_t size) {
  at::Tensor sum = at::zeros({size}, at::kFloat);
  if (node.size == 1) {
    for (int64_t i = 0; i < size; ++i) sum.data_ptr<float>()[i] = leaf_value(node.begin, i);
    return sum;
  }
  const int half = node.size / 2;
  return subtree_sum({node.begin, half}, size).add(subtree_sum({node.begin + half, half}, size));
}

// Several buckets, the second of which has fewer blocks than ranks.
void check_tree(OnFake& communicator, const at::Tensor& expected, const at::Tensor& expected_squares) {
  const int rank = communicator.rank();
  const int64_t size = expected.numel();
  const SumPlan plan = SumPlan::along_tree(8, communicator.world());
  const int rows = plan.most_parts();
  at::Tensor parts = communicator.allocate(rows * size, at::kFloat).view({rows, size});
  at::Tensor squares = communicator.allocate_shared(size / kBlock, at::kDouble);
  at::Tensor result = communicator.allocate_shared(size, at::kFloat);
  const std::vector<Range> buckets{{4 * kBlock, size}, {2 * kBlock, 4 * kBlock}, {0, 2 * kBlock}};
  for (int round = 0; round < 2; ++round) {
    for (size_t part = 0; part < plan.parts(rank).size(); ++part) {
      parts.select(0, static_cast<int64_t>(part)).copy_(subtree_sum(plan.parts(rank)[part], size));
    }
    for (const Range& bucket : buckets) communicator.reduce_scatter(parts, bucket, plan, squares);
    communicator.join("sum");
    for (const Range& bucket : buckets) {
      const Range mine = FlatLayout::slice(bucket, rank, communicator.world());
      result.narrow(0, mine.begin, mine.size()).copy_(parts.select(0, 0).narrow(0, mine.begin, mine.size()));
      communicator.all_gather(result, bucket, kBlock);
      communicator.all_gather(squares, {bucket.begin / kBlock, bucket.end / kBlock}, 1);
    }
    communicator.join("gather");
    EXPECT_TRUE(at::equal(result, expected)) << "on rank " << rank << " of " << communicator.world();
    EXPECT_TRUE(at::equal(squares, expected_squares)) << "on rank " << rank << " of " << communicator.world();
    communicator.barrier("round");
    result.zero_();
  }
}

TEST(NcclCommunicator, ATreeHasTheSameBitsOnAnyNumberOfRanks) {
  const int64_t size = 11 * kBlock;
  const at::Tensor expected = subtree_sum({0, 8}, size);
  at::Tensor squares = at::zeros({size / kBlock}, at::kDouble);
  sum_squares(expected, squares);
  for (const int world : {1, 2, 3, 4, 5, 8}) {
    FakeNccl fake(world);
    run_on_fake(fake, world, {},
                [&](NcclCommunicator&, OnFake& strict) { check_tree(strict, expected, squares); });
    EXPECT_THAT(fake.complaints(), IsEmpty());
  }
}

// The whole way: parameters in one line, hooks of backward, buckets, slices, norm.
TEST(NcclCommunicator, ThePartsOfAStepFitOnIt) {
  const auto gradient_of = [](int world) {
    FakeNccl fake(world);
    at::Tensor whole = at::zeros({3 * kBlock}, at::kFloat);
    double norm = 0;
    run_on_fake(fake, world, {}, [&](NcclCommunicator&, OnFake& strict) {
      FlatParameters::Named named;
      for (const char* name : {"first", "second", "third"}) {
        named.emplace_back(name, at::zeros({1000}, at::kFloat).fill_(strict.rank()).set_requires_grad(true));
      }
      const FlatParameters parameters(strict, named);
      EXPECT_EQ(named[1].second[999].item<float>(), 0);  // rank 0's
      const SumPlan plan = SumPlan::along_tree(4, world);
      GradientReducer reducer(strict, parameters, plan, {4 * kBlock, 4 * kBlock});
      for (int step = 0; step < 2; ++step) {
        reducer.start_step();
        for (int leaf = plan.first_leaf(strict.rank()); leaf < plan.first_leaf(strict.rank() + 1); ++leaf) {
          reducer.start_leaf(1);
          const at::Tensor factors = subtree_sum({leaf, 1}, 1000);
          at::Tensor loss = at::zeros({}, at::kFloat);
          for (size_t i = 0; i < named.size(); ++i) {
            loss = loss.add(named[i].second.add(static_cast<double>(i)).pow(2).mul(factors).sum());
          }
          loss.backward();
        }
        const double squared = reducer.finish().squared_norm;
        for (const Range& slice : reducer.slices()) {
          whole.narrow(0, slice.begin, slice.size())
              .copy_(reducer.gradient().narrow(0, slice.begin, slice.size()));
        }
        if (strict.rank() == 0) norm = squared;
        strict.barrier("step");
      }
    });
    EXPECT_THAT(fake.complaints(), IsEmpty());
    EXPECT_NEAR(whole.to(at::kDouble).pow(2).sum().item<double>() / norm, 1, 1e-12);
    return whole;
  };
  const at::Tensor alone = gradient_of(1);
  EXPECT_NE(alone.narrow(0, 2 * kBlock, 1000).abs().sum().item<float>(), 0);
  for (const int world : {2, 3, 4}) EXPECT_TRUE(at::equal(gradient_of(world), alone)) << world;
}

TEST(NcclSums, SquaresOfABlockDoNotDependOnHowManyThereAre) {
  const int64_t blocks = 1500;  // more than are taken at a time
  at::Tensor values = at::zeros({blocks * kBlock}, at::kFloat);
  for (int64_t i = 0; i < values.numel(); ++i) values.data_ptr<float>()[i] = leaf_value(0, i);
  at::Tensor together = at::zeros({blocks}, at::kDouble), alone = at::zeros({1}, at::kDouble);
  sum_squares(values, together);
  for (const int64_t block : {0, 1, 1023, 1024, 1499}) {
    sum_squares(values.narrow(0, block * kBlock, kBlock), alone);
    EXPECT_EQ(alone.item<double>(), together[block].item<double>());
    double exact = 0;
    for (int64_t i = block * kBlock; i < (block + 1) * kBlock; ++i) {
      exact += std::pow(static_cast<double>(values.data_ptr<float>()[i]), 2);
    }
    EXPECT_NEAR(alone.item<double>() / exact, 1, 1e-12);
  }
}

TEST(NcclSums, TheOrderIsThePlans) {
  // ((a + b) + c) differs from (a + (b + c)) here.
  std::vector<at::Tensor> sources;
  for (const float value : {1e8F, -1e8F, 1.0F}) sources.push_back(at::zeros({1}, at::kFloat).fill_(value));
  at::Tensor to = at::zeros({1}, at::kFloat);
  sum_along({0, 1, kAdd, 2, kAdd}, {sources[0].clone(), sources[1].clone(), sources[2].clone()}, to);
  EXPECT_EQ(to.item<float>(), 1);
  sum_along({0, 1, 2, kAdd, kAdd}, {sources[0].clone(), sources[1].clone(), sources[2].clone()}, to);
  EXPECT_EQ(to.item<float>(), 0);
  sum_along({0}, {sources[0]}, to);
  EXPECT_EQ(to.item<float>(), 1e8F);
}

TEST(NcclCommunicator, HalvesAreAddedInFloat32) {
  FakeNccl fake(4);
  run_on_fake(fake, 4, {}, [&](NcclCommunicator&, OnFake& strict) {
    for (const at::ScalarType dtype : {at::kBFloat16, at::kHalf}) {
      at::Tensor tensor = strict.allocate(5, dtype);
      const double large = dtype == at::kHalf ? 2048 : 256;  // from where on adding 1 changes nothing
      tensor.fill_(strict.rank() == 0 ? large : 1);
      strict.all_reduce(tensor, Communicator::Op::kSum, "halves");
      const at::Tensor expected = at::zeros({5}, at::kFloat).fill_(large + 3).to(dtype);
      EXPECT_TRUE(at::equal(tensor, expected)) << tensor[0].item<float>();
    }
  });
  EXPECT_THAT(fake.complaints(), IsEmpty());
}

// ---- streams and memory ----

TEST(NcclCommunicator, OthersMemoryIsRecordedOnItsStream) {
  FakeNccl fake(2);
  run_on_fake(fake, 2, {}, [&](NcclCommunicator&, OnFake& strict) {
    at::Tensor tensor = fake.cached_tensor(strict.rank(), 8, at::kFloat);  // refused unless it was recorded
    tensor.fill_(strict.rank() + 1);
    strict.broadcast(tensor, 1, "weights");
    EXPECT_EQ(tensor[7].item<float>(), 2);
    strict.all_reduce(tensor, Communicator::Op::kSum, "weights");
    EXPECT_EQ(tensor[7].item<float>(), 4);
  });
  EXPECT_THAT(fake.complaints(), IsEmpty());
}

TEST(NcclCommunicator, NothingIsThereBeforeJoin) {
  FakeNccl fake(2);
  run_on_fake(fake, 2, {}, [&](NcclCommunicator&, OnFake& strict) {
    at::Tensor tensor = strict.allocate_shared(2 * kBlock, at::kFloat);
    tensor.narrow(0, strict.rank() * kBlock, kBlock).fill_(strict.rank() + 1);
    strict.all_gather(tensor, {0, 2 * kBlock}, kBlock);
    const int64_t theirs = (1 - strict.rank()) * kBlock;
    EXPECT_EQ(tensor[theirs].item<float>(), 0);
    strict.barrier("looked");
    strict.join("gather");
    EXPECT_EQ(tensor[theirs].item<float>(), 2 - strict.rank());
  });
}

TEST(NcclCommunicator, CallsMayComeFromThreadsOfBackward) {
  FakeNccl fake(2);
  run_on_fake(fake, 2, {}, [&](NcclCommunicator&, OnFake& strict) {
    const SumPlan plan = SumPlan::in_order_of_ranks(2);
    at::Tensor parts = strict.allocate(2 * kBlock, at::kFloat).view({1, 2 * kBlock});
    at::Tensor squares = strict.allocate(2, at::kDouble);
    parts.fill_(1);
    std::thread([&] { strict.reduce_scatter(parts, {0, 2 * kBlock}, plan, squares); }).join();
    strict.join("sum");
    EXPECT_EQ(parts[0][strict.rank() * kBlock].item<float>(), 2);
    EXPECT_EQ(squares[strict.rank()].item<double>(), 4 * kBlock);
  });
  EXPECT_THAT(fake.complaints(), IsEmpty());
}

void use_some_memory(OnFake& strict) {
  strict.allocate(100, at::kFloat);
  strict.allocate_shared(10000, at::kDouble);
}

TEST(NcclCommunicator, MemoryIsRegisteredOnceAndInTheSameOrder) {
  const auto registrations = [](bool has_windows, bool registers) {
    FakeNccl fake(3);
    fake.set_windows(has_windows);
    CommOptions options;
    options.register_memory = registers;
    run_on_fake(fake, 3, options, [](NcclCommunicator&, OnFake& strict) { use_some_memory(strict); });
    EXPECT_EQ(fake.registrations(0), fake.registrations(2));
    return fake.registrations(0);
  };
  EXPECT_THAT(registrations(true, true),
              ElementsAre("ncclCommWindowRegister 4096", "ncclCommWindowRegister 81920"));
  EXPECT_THAT(registrations(false, true), ElementsAre("ncclCommRegister 4096", "ncclCommRegister 81920"));
  EXPECT_THAT(registrations(true, false), IsEmpty());
}

TEST(NcclCommunicator, MemoryThatOneRankCannotHaveIsAnAgreedError) {
  FakeNccl fake(3);
  fake.set_memory(1, 50000);
  const auto errors = errors_on_fake(fake, 3, with_deadline(20000), [](NcclCommunicator&, OnFake& strict) {
    EXPECT_THROW(use_some_memory(strict), AgreedError);
    strict.allocate(1, at::kFloat);  // and can go on: nothing was registered on some ranks alone
    use_some_memory(strict);
  });
  EXPECT_THAT(errors, SizeIs(3));
  for (const auto& [rank, error] : errors) {
    EXPECT_THAT(error, HasSubstr("ncclMemAlloc failed"));
    EXPECT_THAT(error, HasSubstr("rank 1"));
  }
}

TEST(NcclCommunicator, AllocationsOfDifferentSizesAreAnAgreedError) {
  FakeNccl fake(2);
  run_on_fake(fake, 2, {}, [](NcclCommunicator&, OnFake& strict) {
    EXPECT_THROW(strict.allocate(5000 + 5000 * strict.rank(), at::kFloat), AgreedError);
  });
}

TEST(NcclCommunicator, CloseGivesAllBackAndIsTheEnd) {
  FakeNccl fake(2);
  run_on_fake(fake, 2, {}, [&](NcclCommunicator& communicator, OnFake& strict) {
    use_some_memory(strict);
    at::Tensor tensor = strict.allocate(1, at::kFloat);
    strict.all_gather(tensor, {0, 1}, 1);
    fake.caller_ran(strict.rank());
    communicator.close();
    EXPECT_EQ(fake.memory_in_use(strict.rank()), 0U);
    EXPECT_THAT(fake.calls(strict.rank()), Contains("ncclCommDestroy"));
    EXPECT_THROW(strict.join("more"), Error);
  });
  EXPECT_THAT(fake.complaints(), IsEmpty());
}

TEST(NcclCommunicator, TheDestructorDoesNotCommunicate) {
  FakeNccl fake(2);
  std::vector<std::string> before;
  run_on_fake(fake, 2, {}, [&](NcclCommunicator&, OnFake& strict) {
    use_some_memory(strict);
    strict.barrier("before");
    if (strict.rank() == 0) before = fake.calls(0);
  });
  EXPECT_EQ(fake.calls(0), before);
}

// ---- groups ----

// What goes wrong in it, by rank. Odd and even ranks of five are apart.
std::map<int, std::string> split_in_two(FakeNccl& fake, int milliseconds) {
  std::map<int, std::string> errors;
  std::mutex mutex;
  run_as_threads(5, {}, [&](Communicator& threads) {
    const int rank = threads.rank();
    try {
      NcclCommunicator whole(
          fake.functions(rank), std::shared_ptr<Communicator>(&threads, [](Communicator*) {}),
          with_deadline(milliseconds), [&fake, rank](const Error& error) { fake.release(rank, error); });
      OnFake strict(whole, fake, rank);
      at::Tensor before = strict.allocate_shared(5, at::kFloat);
      strict.all_gather(before, {0, 5}, 1);  // on its way when the split begins
      const auto group = strict.split(rank % 2);
      EXPECT_EQ(group->rank(), rank / 2);
      EXPECT_EQ(group->world(), rank % 2 == 0 ? 3 : 2);
      at::Tensor values = group->allocate(6, at::kFloat);
      values.fill_(static_cast<float>(rank + 1));
      group->all_reduce(values, Communicator::Op::kSum, "in the group");
      EXPECT_EQ(values[5].item<float>(), rank % 2 == 0 ? 1 + 3 + 5 : 2 + 4);
      before.fill_(static_cast<float>(rank));
      strict.all_reduce(before, Communicator::Op::kMax, "of all");
      EXPECT_EQ(before[0].item<float>(), 4);
    } catch (const std::exception& error) {
      const std::lock_guard lock(mutex);
      errors[rank] = error.what();
    }
  });
  return errors;
}

TEST(NcclSplit, MakesGroups) {
  FakeNccl fake(5);
  EXPECT_THAT(split_in_two(fake, 60000), IsEmpty());
  EXPECT_THAT(fake.complaints(), IsEmpty());
}

TEST(NcclSplit, AFailureIsNamed) {
  FakeNccl fake(5);
  fake.fail(3, "ncclCommSplit", 1, NcclResult::kSystemError);
  const auto errors = split_in_two(fake, 300);
  EXPECT_THAT(errors, SizeIs(5));
  EXPECT_THAT(errors.at(3), HasSubstr("'split': ncclCommSplit failed: result 2"));
  EXPECT_THAT(errors.at(0), HasSubstr("'split': ncclCommSplit did not end within 0.3"));
}

// ---- what is found out before NCCL starts ----

TEST(NcclStart, TwoRanksWithOneGpuAreNamed) {
  FakeNccl fake(4);
  fake.set_uuid(3, "gpu-1");
  const auto errors = errors_on_fake(fake, 4, {}, [](NcclCommunicator&, OnFake&) {});
  EXPECT_THAT(errors, SizeIs(4));
  for (const auto& [rank, error] : errors)
    EXPECT_THAT(error, HasSubstr("rank 1 and rank 3 have the same GPU"));
  EXPECT_THAT(fake.calls(0), Not(Contains("ncclCommInitRankConfig")));
}

TEST(NcclStart, AnOldNcclIsNamed) {
  FakeNccl fake(3);
  fake.set_version(1, 21805);
  const auto errors = errors_on_fake(fake, 3, {}, [](NcclCommunicator&, OnFake&) {});
  EXPECT_THAT(errors, SizeIs(3));
  for (const auto& [rank, error] : errors) {
    EXPECT_THAT(error, HasSubstr("NCCL 2.18.5 is too old\n  at rank 1\n  hint: 2.19 or newer"));
  }
}

TEST(NcclStart, DifferentNcclsAreNamed) {
  FakeNccl fake(3);
  fake.set_version(2, 22703);
  const auto errors = errors_on_fake(fake, 3, {}, [](NcclCommunicator&, OnFake&) {});
  EXPECT_THAT(errors, SizeIs(3));
  for (const auto& [rank, error] : errors) EXPECT_THAT(error, HasSubstr("rank 2 has NCCL 2.27.3"));
}

TEST(NcclStart, TheStatusOfTheIdComesBeforeTheId) {
  FakeNccl fake(3);
  fake.fail(0, "ncclGetUniqueId", 1, NcclResult::kSystemError);
  const auto errors = errors_on_fake(fake, 3, {}, [](NcclCommunicator&, OnFake&) {});
  EXPECT_THAT(errors, SizeIs(3));
  for (const auto& [rank, error] : errors) EXPECT_THAT(error, HasSubstr("ncclGetUniqueId failed: result 2"));
  EXPECT_THAT(fake.calls(1), Not(Contains("ncclCommInitRankConfig")));
}

TEST(NcclStart, EachRankTakesTheGpuOfItsPlace) {
  const auto chosen = [](std::vector<int> places, std::vector<int> gpus) {
    std::vector<int> chosen(places.size());
    run_as_threads(static_cast<int>(places.size()), {}, [&](Communicator& host) {
      chosen[host.rank()] = choose_gpu(host, places[host.rank()], gpus[host.rank()]);
    });
    return chosen;
  };
  EXPECT_THAT(chosen({0, 1, 2}, {0, 0, 0}), ElementsAre(-1, -1, -1));
  EXPECT_THAT(chosen({0, 1, 0, 1}, {2, 2, 8, 8}), ElementsAre(0, 1, 0, 1));  // two nodes
  EXPECT_THAT(chosen({0, 1}, {1, 1}), ElementsAre(0, 0));                    // each sees its own alone
  EXPECT_THROW(chosen({0, 1, 2}, {2, 2, 2}), AgreedError);                   // more than there are
  EXPECT_THROW(chosen({0, 0}, {1, 0}), AgreedError);                         // a node without
}

// ---- failures of calls ----

// Every call of the table once, on two ranks.
void use_everything(FakeNccl& fake, NcclCommunicator& communicator, OnFake& strict) {
  const SumPlan fast = SumPlan::in_order_of_ranks(2), tree = SumPlan::along_tree(4, 2);
  at::Tensor parts = strict.allocate(3 * kBlock, at::kFloat).view({1, 3 * kBlock});
  at::Tensor squares = strict.allocate(3, at::kDouble);
  at::Tensor values = strict.allocate_shared(3 * kBlock, at::kFloat);
  strict.broadcast(values, 0, "weights");
  strict.reduce_scatter(parts, {0, 2 * kBlock}, fast, squares);
  strict.reduce_scatter(parts, {0, 3 * kBlock}, fast, squares);
  strict.reduce_scatter(parts, {0, 3 * kBlock}, tree, squares);
  strict.join("gradients");
  strict.all_gather(values, {0, 2 * kBlock}, kBlock);
  strict.join("weights");
  strict.all_reduce(squares, Communicator::Op::kSum, "norm");
  strict.barrier("all is done");
  fake.caller_ran(strict.rank());
  communicator.close();
}

struct Fault {
  const char* call;
  bool has_windows = true;
};

class NcclFailure : public testing::TestWithParam<Fault> {};

// The rank says which call failed, and how; the others' waits end within the deadline.
TEST_P(NcclFailure, OfACallIsNamed) {
  FakeNccl fake(2);
  fake.set_windows(GetParam().has_windows);
  fake.fail(1, GetParam().call, 1, NcclResult::kSystemError);
  const auto errors = errors_on_fake(
      fake, 2, with_deadline(300),
      [&](NcclCommunicator& communicator, OnFake& strict) { use_everything(fake, communicator, strict); });
  ASSERT_TRUE(errors.contains(1));
  const std::string named =
      std::string(GetParam().call) == "ncclSend" || std::string(GetParam().call) == "ncclRecv"
          ? "ncclSend and ncclRecv"
          : GetParam().call;
  EXPECT_THAT(errors.at(1), HasSubstr(named + " failed: result 2"));
  EXPECT_THAT(errors.at(1), HasSubstr("at rank 1"));
  EXPECT_THAT(fake.complaints(), IsEmpty());
}

INSTANTIATE_TEST_SUITE_P(Calls, NcclFailure,
                         testing::Values(Fault{"ncclGetVersion"}, Fault{"ncclCommInitRankConfig"},
                                         Fault{"ncclCommGetAsyncError"}, Fault{"ncclMemAlloc"},
                                         Fault{"ncclCommWindowRegister"}, Fault{"ncclCommRegister", false},
                                         Fault{"ncclBroadcast"}, Fault{"ncclReduceScatter"},
                                         Fault{"ncclGroupStart"}, Fault{"ncclReduce"}, Fault{"ncclSend"},
                                         Fault{"ncclRecv"}, Fault{"ncclAllGather"}, Fault{"ncclAllReduce"},
                                         Fault{"ncclCommWindowDeregister"},
                                         Fault{"ncclCommDeregister", false}, Fault{"ncclCommFinalize"},
                                         Fault{"ncclCommDestroy"}, Fault{"ncclMemFree"}),
                         [](const auto& info) { return std::string(info.param.call); });

TEST(NcclFailure, OfAGroupIsNamedAfterItsCalls) {
  FakeNccl fake(2);
  fake.fail(1, "ncclGroupEnd", 1, NcclResult::kInternalError);
  const auto errors = errors_on_fake(
      fake, 2, with_deadline(300),
      [&](NcclCommunicator& communicator, OnFake& strict) { use_everything(fake, communicator, strict); });
  EXPECT_THAT(errors.at(1), HasSubstr("ncclReduce failed: result 3"));
}

TEST(NcclFailure, AGroupIsEndedEvenIfACallFailed) {
  FakeNccl fake(2);
  fake.fail(1, "ncclSend", 1, NcclResult::kInvalidArgument);
  const auto errors = errors_on_fake(fake, 2, with_deadline(300), [&](NcclCommunicator&, OnFake& strict) {
    at::Tensor parts = strict.allocate(2 * kBlock, at::kFloat).view({1, 2 * kBlock});
    const SumPlan plan = SumPlan::along_tree(2, 2);
    at::Tensor squares = strict.allocate(2, at::kDouble);
    const auto sum = [&] { strict.reduce_scatter(parts, {0, 2 * kBlock}, plan, squares); };
    if (strict.rank() == 1) {
      EXPECT_THROW(sum(), Error);
    } else {
      sum();
    }
    strict.barrier("an open group would be complained about");
  });
  EXPECT_EQ(fake.calls(1).back(), "ncclGroupEnd");
  EXPECT_THAT(errors, IsEmpty());
}

class NcclResults : public testing::TestWithParam<NcclResult> {};

TEST_P(NcclResults, AreAllErrors) {
  FakeNccl fake(2);
  fake.fail(0, "ncclAllReduce", 1, GetParam());
  const auto errors = errors_on_fake(fake, 2, with_deadline(300), [](NcclCommunicator&, OnFake& strict) {
    strict.all_reduce(strict.allocate(4, at::kFloat), Communicator::Op::kSum, "norm");
  });
  EXPECT_THAT(errors, SizeIs(2));
  EXPECT_THAT(errors.at(0), HasSubstr("'norm': ncclAllReduce failed: result " +
                                      std::to_string(static_cast<int>(GetParam()))));
  EXPECT_THAT(errors.at(1), HasSubstr("'norm' did not end on the GPU within"));
}

INSTANTIATE_TEST_SUITE_P(All, NcclResults,
                         testing::Values(NcclResult::kUnhandledCudaError, NcclResult::kSystemError,
                                         NcclResult::kInternalError, NcclResult::kInvalidArgument,
                                         NcclResult::kInvalidUsage, NcclResult::kRemoteError));

class GpuFailure : public testing::TestWithParam<const char*> {};

TEST_P(GpuFailure, OfACallIsNamed) {
  FakeNccl fake(2);
  fake.fail_gpu(1, GetParam(), 1);
  const auto errors = errors_on_fake(
      fake, 2, with_deadline(300),
      [&](NcclCommunicator& communicator, OnFake& strict) { use_everything(fake, communicator, strict); });
  ASSERT_TRUE(errors.contains(1));
  EXPECT_THAT(errors.at(1), HasSubstr(std::string(GetParam()) + " failed: error "));
  EXPECT_THAT(errors.at(1), HasSubstr("at rank 1"));
}

INSTANTIATE_TEST_SUITE_P(Calls, GpuFailure,
                         testing::Values("cudaSetDevice", "cudaGetDeviceProperties",
                                         "cudaStreamCreateWithPriority", "cudaEventCreate", "cudaMemsetAsync",
                                         "cudaEventRecord", "cudaStreamWaitEvent", "cudaStreamDestroy"));

// ---- deadlines ----

class NcclHang : public testing::TestWithParam<Fault> {};

TEST_P(NcclHang, EndsAtTheDeadlineAndNamesTheCall) {
  FakeNccl fake(2);
  fake.set_windows(GetParam().has_windows);
  fake.hang(1, GetParam().call, 1);
  const auto errors = errors_on_fake(
      fake, 2, with_deadline(300),
      [&](NcclCommunicator& communicator, OnFake& strict) { use_everything(fake, communicator, strict); });
  ASSERT_TRUE(errors.contains(1));
  const std::string call = GetParam().call;
  EXPECT_THAT(errors.at(1),
              HasSubstr((call == "ncclGroupEnd" ? "ncclReduce" : call) + " did not end within 0.3"));
  EXPECT_THAT(errors.at(1), HasSubstr("at rank 1"));
  EXPECT_TRUE(errors.contains(0));
  EXPECT_THAT(fake.complaints(), IsEmpty());
}

INSTANTIATE_TEST_SUITE_P(Calls, NcclHang,
                         testing::Values(Fault{"ncclCommInitRankConfig"}, Fault{"ncclCommWindowRegister"},
                                         Fault{"ncclBroadcast"}, Fault{"ncclReduceScatter"},
                                         Fault{"ncclGroupEnd"}, Fault{"ncclAllGather"},
                                         Fault{"ncclAllReduce"}, Fault{"ncclCommFinalize"}),
                         [](const auto& info) { return std::string(info.param.call); });

TEST(NcclWait, OfARankThatIsGoneEndsAtTheDeadline) {
  FakeNccl fake(3);
  const auto errors = errors_on_fake(fake, 3, with_deadline(300), [](NcclCommunicator&, OnFake& strict) {
    at::Tensor values = strict.allocate_shared(3 * kBlock, at::kFloat);
    if (strict.rank() == 2) throw Error("rank two is out");
    strict.all_gather(values, {0, 3 * kBlock}, kBlock);
    strict.join("weights of layer one");
  });
  EXPECT_THAT(errors, SizeIs(3));
  EXPECT_THAT(errors.at(0), HasSubstr("'weights of layer one' did not end on the GPU within 0.3"));
  EXPECT_THAT(errors.at(0), HasSubstr("at rank 0"));
  EXPECT_THAT(errors.at(1), HasSubstr("at rank 1"));
}

TEST(NcclWait, EndsWithWhatNcclFindsOut) {
  FakeNccl fake(2);
  const auto errors = errors_on_fake(fake, 2, with_deadline(60000), [&](NcclCommunicator&, OnFake& strict) {
    at::Tensor values = strict.allocate_shared(2 * kBlock, at::kFloat);
    if (strict.rank() == 1) {
      fake.report(0, NcclResult::kRemoteError);
      throw Error("rank one is out");
    }
    strict.all_gather(values, {0, 2 * kBlock}, kBlock);
    strict.join("weights");
  });
  EXPECT_THAT(errors, SizeIs(2));
  EXPECT_THAT(errors.at(0), HasSubstr("failed: result 6"));
  EXPECT_THAT(errors.at(0), HasSubstr("at rank 0"));
}

TEST(NcclWait, AnErrorOfTheGpuEndsIt) {
  FakeNccl fake(2);
  fake.fail_gpu(0, "cudaEventQuery", 1);
  const auto errors = errors_on_fake(fake, 2, with_deadline(300), [&](NcclCommunicator&, OnFake& strict) {
    at::Tensor values = strict.allocate_shared(2 * kBlock, at::kFloat);
    if (strict.rank() == 1) throw Error("rank one is out");
    strict.all_gather(values, {0, 2 * kBlock}, kBlock);
    strict.join("weights");
  });
  EXPECT_THAT(errors.at(0), HasSubstr("'weights' failed on the GPU: error 701"));
}

TEST(NcclWait, OnceLostEveryCallSaysSo) {
  FakeNccl fake(2);
  errors_on_fake(fake, 2, with_deadline(300), [&](NcclCommunicator&, OnFake& strict) {
    at::Tensor values = strict.allocate_shared(2 * kBlock, at::kFloat);
    if (strict.rank() == 1) return;
    strict.all_gather(values, {0, 2 * kBlock}, kBlock);
    EXPECT_THROW(strict.join("weights"), Error);
    try {
      strict.all_gather(values, {0, 2 * kBlock}, kBlock);
      ADD_FAILURE();
    } catch (const Error& error) {
      EXPECT_THAT(error.what(), HasSubstr("'weights' did not end"));
    }
  });
}

TEST(NcclWait, ACallThatDoesNotReturnIsFoundOut) {
  FakeNccl fake(1);
  std::mutex mutex;
  std::condition_variable changed;
  std::string lost;
  const auto said = [&] {
    std::unique_lock lock(mutex);
    return changed.wait_for(lock, std::chrono::seconds(30), [&] { return !lost.empty(); });
  };
  run_as_threads(1, {}, [&](Communicator& host) {
    NcclFunctions functions = fake.functions(0);
    functions.all_reduce = [&](auto&&...) {
      EXPECT_TRUE(said());
      return NcclResult::kSuccess;
    };
    NcclCommunicator communicator(functions, {&host, [](Communicator*) {}}, with_deadline(100),
                                  [&](const Error& error) {
                                    const std::lock_guard lock(mutex);
                                    lost = error.what();
                                    changed.notify_all();
                                  });
    at::Tensor tensor = communicator.allocate(1, at::kFloat);
    EXPECT_THROW(communicator.all_reduce(tensor, Communicator::Op::kSum, "norm"), Error);
  });
  EXPECT_THAT(lost, HasSubstr("a call of NCCL does not return"));
}

// ---- misuse ----

TEST(NcclMisuse, AnotherOrderIsAnErrorOnEveryRank) {
  FakeNccl fake(3);
  const auto errors = errors_on_fake(fake, 3, with_deadline(300), [](NcclCommunicator&, OnFake& strict) {
    at::Tensor values = strict.allocate_shared(3 * kBlock, at::kFloat),
               norm = strict.allocate(1, at::kDouble);
    if (strict.rank() == 1) strict.all_reduce(norm, Communicator::Op::kSum, "norm");
    strict.all_gather(values, {0, 3 * kBlock}, kBlock);
    strict.join("weights");
    if (strict.rank() != 1) strict.all_reduce(norm, Communicator::Op::kSum, "norm");
  });
  EXPECT_THAT(errors, SizeIs(3));
  for (const auto& [rank, error] : errors) {
    EXPECT_THAT(error, HasSubstr("at rank " + std::to_string(rank)));
    EXPECT_THAT(error, HasSubstr("rank 1 does ncclAllReduce"));
  }
}

TEST(NcclMisuse, AnotherSizeIsAnErrorOnEveryRank) {
  FakeNccl fake(3);
  const auto errors = errors_on_fake(fake, 3, with_deadline(300), [](NcclCommunicator&, OnFake& strict) {
    at::Tensor values = strict.allocate(8, at::kFloat);
    strict.all_reduce(values.narrow(0, 0, strict.rank() == 2 ? 7 : 8), Communicator::Op::kSum, "norm");
  });
  EXPECT_THAT(errors, SizeIs(3));
  for (const auto& [rank, error] : errors) EXPECT_THAT(error, HasSubstr("rank 2 does ncclAllReduce of 7"));
}

TEST(NcclMisuse, OthersMemoryIsRefused) {
  FakeNccl fake(1);
  run_on_fake(fake, 1, {}, [&](NcclCommunicator&, OnFake& strict) {
    at::Tensor other = fake.cached_tensor(0, kBlock, at::kFloat);
    EXPECT_THROW(strict.all_gather(other, {0, kBlock}, kBlock), Error);
    const SumPlan plan = SumPlan::in_order_of_ranks(1);
    EXPECT_THROW(
        strict.reduce_scatter(other.view({1, kBlock}), {0, kBlock}, plan, at::zeros({1}, at::kDouble)),
        Error);
    EXPECT_THROW(strict.all_reduce(strict.allocate(4, at::kInt), Communicator::Op::kSum, "int32"), Error);
    EXPECT_THROW(strict.broadcast(strict.allocate(4, at::kInt).view({2, 2}).t(), 0, "transposed"), Error);
    EXPECT_THROW(strict.split(-1), Error);
  });
}

// ---- the library itself ----

TEST(NcclLibrary, IsThereWhereLibTorchHasCuda) {
  EXPECT_GE(count_gpus(), 0);
  if (!REKINDLE_HAS_CUDA) {
    EXPECT_THROW(load_nccl(0), Error);
    return;
  }
  const NcclFunctions functions = load_nccl(0);
  int version = 0;
  EXPECT_EQ(functions.get_version(&version), NcclResult::kSuccess);
  EXPECT_GE(version, 21900);
  EXPECT_TRUE(functions.comm_split && functions.comm_register && functions.recv && functions.run_on);
  EXPECT_EQ(static_cast<bool>(functions.window_register), version >= 22700);
}

}  // namespace
}  // namespace rekindle
