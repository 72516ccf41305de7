// SPDX-License-Identifier: Apache-2.0
#include "conformance.h"

#include <ATen/ops/zeros.h>

#include <filesystem>
#include <fstream>
#include <optional>
#include <stdexcept>

#include "core/error.h"
#include "tests/support/temp_directory.h"

namespace rekindle {
namespace {

void expect(bool good, const std::string& what) {
  if (!good) throw std::runtime_error(what);
}

// Small whole numbers, so that sums are exact in every type.
int value(int rank, int64_t i) {
  return static_cast<int>((i * 3 + rank * 5 + 1) % 11);
}

int expected_sum(int world, int64_t i) {
  int sum = 0;
  for (int r = 0; r < world; ++r) sum += value(r, i);
  return sum;
}

template <typename T>
void fill(at::Tensor tensor, int rank) {
  T* at = tensor.data_ptr<T>();
  for (int64_t i = 0; i < tensor.numel(); ++i) at[i] = static_cast<T>(value(rank, i));
}

template <typename T>
void check_all_reduce(Communicator& communicator, at::ScalarType dtype) {
  const int world = communicator.world();
  for (const int64_t count : {0, 1, 7, 1023, 1024, 1025, 70000, 300001}) {
    for (const bool allocated : {false, true}) {
      at::Tensor tensor = allocated ? communicator.allocate(count, dtype) : at::zeros({count}, dtype);
      fill<T>(tensor, communicator.rank());
      communicator.all_reduce(tensor, Communicator::Op::kSum, "sum");
      const T* at = tensor.data_ptr<T>();
      for (int64_t i = 0; i < count; ++i) {
        expect(at[i] == static_cast<T>(expected_sum(world, i)),
               "sum of " + std::to_string(count) + " at " + std::to_string(i));
      }
    }
  }
}

void all_reduce_sums(Communicator& communicator) {
  check_all_reduce<float>(communicator, at::kFloat);
  check_all_reduce<double>(communicator, at::kDouble);
  check_all_reduce<int64_t>(communicator, at::kLong);
  check_all_reduce<uint8_t>(communicator, at::kByte);
}

void all_reduce_takes_the_maximum(Communicator& communicator) {
  at::Tensor tensor = at::zeros({3}, at::kDouble);
  double* at = tensor.data_ptr<double>();
  at[0] = communicator.rank(), at[1] = -communicator.rank(), at[2] = 4;
  communicator.all_reduce(tensor, Communicator::Op::kMax, "maximum");
  expect(at[0] == communicator.world() - 1 && at[1] == 0 && at[2] == 4, "maximum");
}

void broadcast_from_every_root(Communicator& communicator) {
  for (int root = 0; root < communicator.world(); ++root) {
    for (const int64_t count : {0, 1, 5, 65536, 200001}) {
      for (const bool allocated : {false, true}) {
        at::Tensor tensor =
            allocated ? communicator.allocate(count, at::kFloat) : at::zeros({count}, at::kFloat);
        fill<float>(tensor, communicator.rank());
        communicator.broadcast(tensor, root, "broadcast");
        for (int64_t i = 0; i < count; ++i) {
          expect(tensor.data_ptr<float>()[i] == static_cast<float>(value(root, i)),
                 "broadcast at " + std::to_string(i));
        }
      }
    }
  }
}

// Three buckets, the values different in every round, so that a stale sum is found out.
void reduce_scatter_then_all_gather(Communicator& communicator) {
  const int world = communicator.world(), rank = communicator.rank();
  const int64_t size = 23 * kBlock;
  const std::vector<Range> buckets{{15 * kBlock, size}, {14 * kBlock, 15 * kBlock}, {0, 14 * kBlock}};
  at::Tensor flat = communicator.allocate(size, at::kFloat).view({1, size});
  const SumPlan plan = SumPlan::in_order_of_ranks(world);
  at::Tensor result = communicator.allocate_shared(size, at::kFloat);
  at::Tensor squares = at::zeros({size / kBlock}, at::kDouble);
  for (int round = 0; round < 5; ++round) {
    float* values = flat.data_ptr<float>();
    for (int64_t i = 0; i < size; ++i) values[i] = static_cast<float>(value(rank, i + round));
    for (const Range& bucket : buckets) communicator.reduce_scatter(flat, bucket, plan, squares);
    communicator.join("sum");
    for (const Range& bucket : buckets) {
      const Range mine = FlatLayout::slice(bucket, rank, world);
      double sum = 0;
      for (int64_t i = mine.begin; i < mine.end; ++i) {
        expect(values[i] == static_cast<float>(expected_sum(world, i + round)),
               "reduced at " + std::to_string(i));
        sum += static_cast<double>(values[i]) * values[i];
        result.data_ptr<float>()[i] = values[i];
      }
      double blocks = 0;
      for (int64_t b = mine.begin / kBlock; b < mine.end / kBlock; ++b)
        blocks += squares.data_ptr<double>()[b];
      expect(blocks == sum, "squares");  // whole numbers: exact in any order
      communicator.all_gather(result, bucket, kBlock);
    }
    communicator.join("gather");
    for (int64_t i = 0; i < size; ++i) {
      expect(result.data_ptr<float>()[i] == static_cast<float>(expected_sum(world, i + round)),
             "gathered at " + std::to_string(i));
    }
    communicator.barrier("round");
  }
}

void texts_of_any_length(Communicator& communicator) {
  const int rank = communicator.rank();
  const std::string mine = rank == 1 ? "" : std::string(1 + 1000 * rank, static_cast<char>('a' + rank));
  const auto all = all_gather_text(communicator, mine, "texts");
  expect(static_cast<int>(all.size()) == communicator.world(), "count of texts");
  for (int r = 0; r < communicator.world(); ++r) {
    expect(all[r] == (r == 1 ? "" : std::string(1 + 1000 * r, static_cast<char>('a' + r))),
           "text " + std::to_string(r));
  }
  std::string text = "from " + std::to_string(rank);
  broadcast_text(communicator, text, communicator.world() - 1, "text");
  expect(text == "from " + std::to_string(communicator.world() - 1), "broadcast text");
}

void a_failure_of_one_is_everyones(Communicator& communicator) {
  const int last = communicator.world() - 1;
  bool thrown = false;
  try {
    together(communicator, "part", [&] {
      if (communicator.rank() == last) throw bad_input("no such file", "day1.gz", "check the path");
    });
  } catch (const AgreedError& error) {
    thrown = error.summary() == "no such file" && error.details().where == "day1.gz" &&
             error.details().hint == "check the path" && error.code() == ExitCode::kBadInput;
  }
  expect(thrown, "the error of one rank on all");
  together(communicator, "part", [] {});
}

void memory_is_zeroed_and_ones_own(Communicator& communicator) {
  at::Tensor mine = communicator.allocate(1000, at::kFloat);
  expect(mine.abs().sum().item<float>() == 0, "zeroed");
  mine.fill_(communicator.rank() + 1);
  communicator.barrier("written");
  expect(mine.eq(communicator.rank() + 1).all().item<bool>(), "own memory");
  at::Tensor shared = communicator.allocate_shared(1000, at::kFloat);
  if (communicator.fills_shared()) shared.fill_(42);
  communicator.barrier("written");
  expect(shared.eq(42).all().item<bool>(), "one copy for all that do not fill it");
}

// Through files, so that nothing but the barrier keeps the ranks together.
void a_barrier_waits_for_everyone(Communicator& communicator) {
  std::optional<TempDirectory> made;
  if (communicator.rank() == 0) made.emplace();
  std::string directory = made ? made->path().string() : "";
  broadcast_text(communicator, directory, 0, "directory");
  const auto mark = [&](int round, int rank) {
    return directory + "/" + std::to_string(round) + "-" + std::to_string(rank);
  };
  for (int round = 0; round < 50; ++round) {
    std::ofstream(mark(round, communicator.rank()));
    communicator.barrier("mark");
    for (int rank = 0; rank < communicator.world(); ++rank) {
      expect(std::filesystem::exists(mark(round, rank)),
             "rank " + std::to_string(rank) + " was not waited for");
    }
  }
  all_gather_text(communicator, "", "looked");
}

}  // namespace

std::vector<std::pair<std::string, Check>> conformance_checks() {
  return {{"all_reduce_sums", all_reduce_sums},
          {"all_reduce_takes_the_maximum", all_reduce_takes_the_maximum},
          {"broadcast_from_every_root", broadcast_from_every_root},
          {"reduce_scatter_then_all_gather", reduce_scatter_then_all_gather},
          {"texts_of_any_length", texts_of_any_length},
          {"a_failure_of_one_is_everyones", a_failure_of_one_is_everyones},
          {"memory_is_zeroed_and_ones_own", memory_is_zeroed_and_ones_own},
          {"a_barrier_waits_for_everyone", a_barrier_waits_for_everyone}};
}

}  // namespace rekindle
