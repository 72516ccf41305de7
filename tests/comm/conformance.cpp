// SPDX-License-Identifier: Apache-2.0
#include "conformance.h"

#include <ATen/ops/full.h>
#include <ATen/ops/zeros.h>

#include <cmath>
#include <filesystem>
#include <fstream>
#include <memory>
#include <optional>
#include <stdexcept>

#include "core/error.h"
#include "core/squares.h"
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

// Nothing, one, odd, around powers of two, and more than goes through any staging memory at once.
constexpr int64_t kCounts[] = {0, 1, 7, 1023, 1024, 1025, 65535, 65537, 300001};

template <typename T>
void fill(at::Tensor tensor, int rank) {
  T* at = tensor.data_ptr<T>();
  for (int64_t i = 0; i < tensor.numel(); ++i) at[i] = static_cast<T>(value(rank, i));
}

template <typename T>
void check_all_reduce(Communicator& communicator, at::ScalarType dtype) {
  const int world = communicator.world();
  for (const int64_t count : kCounts) {
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
  check_all_reduce<at::BFloat16>(communicator, at::kBFloat16);
  check_all_reduce<at::Half>(communicator, at::kHalf);
  check_all_reduce<int64_t>(communicator, at::kLong);
  check_all_reduce<uint8_t>(communicator, at::kByte);
}

// Rank 0 gives the first whole number whose successor the type does not have, the others 1: where every
// addition is rounded, nothing comes of the ones.
void sums_of_16_bits_are_rounded_once(Communicator& communicator) {
  for (const at::ScalarType dtype : {at::kBFloat16, at::kHalf}) {
    const float large = dtype == at::kBFloat16 ? 256 : 2048;
    for (const bool allocated : {false, true}) {
      at::Tensor tensor = allocated ? communicator.allocate(5000, dtype) : at::zeros({5000}, dtype);
      tensor.fill_(communicator.rank() == 0 ? large : 1);
      communicator.all_reduce(tensor, Communicator::Op::kSum, "sum");
      const at::Tensor sum =
          at::full({5000}, large + static_cast<float>(communicator.world() - 1), at::kFloat).to(dtype);
      expect(tensor.equal(sum), "rounded once");
    }
  }
}

void a_view_is_reduced_and_nothing_beside_it(Communicator& communicator) {
  at::Tensor whole = communicator.allocate(3000, at::kFloat);
  whole.fill_(communicator.rank() + 1);
  communicator.all_reduce(whole.narrow(0, 1000, 1000), Communicator::Op::kSum, "view");
  const int world = communicator.world();
  expect(whole.narrow(0, 1000, 1000).eq(world * (world + 1) / 2).all().item<bool>(), "the view");
  expect(whole.narrow(0, 0, 1000).eq(communicator.rank() + 1).all().item<bool>(), "before the view");
  expect(whole.narrow(0, 2000, 1000).eq(communicator.rank() + 1).all().item<bool>(), "after the view");
}

void all_reduce_takes_the_maximum(Communicator& communicator) {
  const int rank = communicator.rank();
  for (const at::ScalarType dtype : {at::kFloat, at::kDouble, at::kBFloat16, at::kHalf, at::kLong}) {
    at::Tensor tensor = at::zeros({3}, dtype);
    tensor[0] = rank, tensor[1] = -rank, tensor[2] = 4;
    communicator.all_reduce(tensor, Communicator::Op::kMax, "maximum");
    tensor = tensor.to(at::kLong);
    expect(tensor[0].item<int64_t>() == communicator.world() - 1 && tensor[1].item<int64_t>() == 0 &&
               tensor[2].item<int64_t>() == 4,
           std::string("maximum of ") + at::toString(dtype));
  }
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

// What leaf `leaf` of a step gives: no whole numbers, so that the order of the additions is seen.
float leaf_value(int leaf, int64_t i) {
  return std::sin(static_cast<float>(i * 7 + leaf * 13)) * std::pow(10.f, static_cast<float>(leaf % 3));
}

float tree_value(Subtree tree, int64_t i) {
  if (tree.size == 1) return leaf_value(tree.begin, i);
  const int half = tree.size / 2;
  const float left = tree_value({tree.begin, half}, i), right = tree_value({tree.begin + half, half}, i);
  return left + right;
}

void check_tree(Communicator& communicator, int leaves) {
  const int world = communicator.world(), rank = communicator.rank();
  const SumPlan plan = SumPlan::along_tree(leaves, world);
  const int64_t size = 11 * kBlock;
  const std::vector<Range> buckets{{6 * kBlock, size}, {0, 6 * kBlock}};
  at::Tensor parts =
      communicator.allocate(plan.most_parts() * size, at::kFloat).view({plan.most_parts(), size});
  at::Tensor result = communicator.allocate_shared(size, at::kFloat);
  at::Tensor squares = communicator.allocate_shared(size / kBlock, at::kDouble);
  for (size_t row = 0; row < plan.parts(rank).size(); ++row) {
    float* values = parts[static_cast<int64_t>(row)].data_ptr<float>();
    for (int64_t i = 0; i < size; ++i) values[i] = tree_value(plan.parts(rank)[row], i);
  }
  for (const Range& bucket : buckets) communicator.reduce_scatter(parts, bucket, plan, squares);
  communicator.join("tree");
  for (const Range& bucket : buckets) {
    const Range mine = FlatLayout::slice(bucket, rank, world);
    result.narrow(0, mine.begin, mine.size()).copy_(parts[0].narrow(0, mine.begin, mine.size()));
    communicator.all_gather(result, bucket, kBlock);
    communicator.all_gather(squares, {bucket.begin / kBlock, bucket.end / kBlock}, 1);
  }
  communicator.join("gather");
  const float* values = result.data_ptr<float>();
  for (int64_t i = 0; i < size; ++i) {
    expect(values[i] == tree_value({0, leaves}, i), "along the tree at " + std::to_string(i));
  }
  for (int64_t block = 0; block < size / kBlock; ++block) {
    const double sum = sum_of_squares(values + block * kBlock, kBlock);
    expect(std::abs(squares.data_ptr<double>()[block] - sum) <= 1e-12 * sum, "squares");
  }
}

void a_tree_gives_the_same_bits_in_every_world(Communicator& communicator) {
  for (const int leaves : {8, 16}) check_tree(communicator, leaves);
}

// Memory of each rank's own, and units and counts of which some ranks have none.
void all_gather_to_own_memory(Communicator& communicator) {
  for (const int64_t count : {1, 2, 7, 1025}) {
    at::Tensor mine = communicator.allocate(count + 3, at::kDouble);
    mine.fill_(-1);
    const Range range{2, count + 2},
        slice = FlatLayout::slice(range, communicator.rank(), communicator.world(), 1);
    for (int64_t i = slice.begin; i < slice.end; ++i) mine[i] = static_cast<double>(i * 3);
    communicator.all_gather(mine, range, 1);
    communicator.join("gather");
    for (int64_t i = range.begin; i < range.end; ++i) {
      expect(mine[i].item<double>() == static_cast<double>(i * 3), "gathered " + std::to_string(i));
    }
    expect(mine[0].item<double>() == -1 && mine[count + 2].item<double>() == -1, "beside the range");
  }
}

// Odd and even ranks part and do different things, then all meet again.
void groups_are_worlds_of_their_own(Communicator& communicator) {
  const int group = communicator.rank() % 2 == 0 ? 0 : 5;
  std::vector<int> members;
  for (int r = communicator.rank() % 2; r < communicator.world(); r += 2) members.push_back(r);
  const std::unique_ptr<Communicator> part = communicator.split(group);
  expect(part->world() == static_cast<int>(members.size()) && members[part->rank()] == communicator.rank(),
         "order in the group");
  for (int round = 0; round < (group == 5 ? 3 : 1); ++round) {
    at::Tensor sum = part->allocate(10, at::kLong);
    sum.fill_(communicator.rank() + 1);
    part->all_reduce(sum, Communicator::Op::kSum, "sum of a group");
    int64_t expected = 0;
    for (const int member : members) expected += member + 1;
    expect(sum.eq(expected).all().item<bool>(), "sum of a group");
  }
  reduce_scatter_then_all_gather(*part);
  check_tree(*part, 8);
  const std::unique_ptr<Communicator> alone = part->split(communicator.rank());
  alone->barrier("alone");
  expect(alone->world() == 1, "a group of one");
  communicator.barrier("together again");
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
          {"sums_of_16_bits_are_rounded_once", sums_of_16_bits_are_rounded_once},
          {"a_view_is_reduced_and_nothing_beside_it", a_view_is_reduced_and_nothing_beside_it},
          {"all_reduce_takes_the_maximum", all_reduce_takes_the_maximum},
          {"broadcast_from_every_root", broadcast_from_every_root},
          {"reduce_scatter_then_all_gather", reduce_scatter_then_all_gather},
          {"a_tree_gives_the_same_bits_in_every_world", a_tree_gives_the_same_bits_in_every_world},
          {"all_gather_to_own_memory", all_gather_to_own_memory},
          {"groups_are_worlds_of_their_own", groups_are_worlds_of_their_own},
          {"texts_of_any_length", texts_of_any_length},
          {"a_failure_of_one_is_everyones", a_failure_of_one_is_everyones},
          {"memory_is_zeroed_and_ones_own", memory_is_zeroed_and_ones_own},
          {"a_barrier_waits_for_everyone", a_barrier_waits_for_everyone}};
}

std::vector<std::pair<std::string, Misuse>> conformance_misuses() {
  const auto is_last = [](Communicator& c) { return c.rank() + 1 == c.world(); };
  const auto reduce = [](Communicator& c, int64_t count, at::ScalarType dtype, const char* name) {
    c.all_reduce(at::zeros({count}, dtype), Communicator::Op::kSum, name);
  };
  return {
      {"another size", [=](Communicator& c) { reduce(c, is_last(c) ? 11 : 10, at::kFloat, "size"); }},
      {"another size, in memory that all read",
       [=](Communicator& c) {
         at::Tensor memory = c.allocate(5000, at::kFloat);
         c.all_reduce(memory.narrow(0, 0, is_last(c) ? 5000 : 4999), Communicator::Op::kSum, "size");
       }},
      {"another type", [=](Communicator& c) { reduce(c, 10, is_last(c) ? at::kLong : at::kDouble, "type"); }},
      {"another order",
       [=](Communicator& c) {
         if (is_last(c)) c.barrier("order");
         reduce(c, 10, at::kFloat, "order");
         c.barrier("order");
       }},
      {"buckets in another order",
       [=](Communicator& c) {
         const SumPlan plan = SumPlan::in_order_of_ranks(c.world());
         const int64_t half = c.world() * kBlock;
         at::Tensor parts = c.allocate(2 * half, at::kFloat).view({1, 2 * half});
         at::Tensor squares = at::zeros({2 * c.world()}, at::kDouble);
         for (const bool first : {is_last(c), !is_last(c)}) {
           c.reduce_scatter(parts, first ? Range{0, half} : Range{half, 2 * half}, plan, squares);
         }
         c.join("buckets");
       }},
      {"a rank is missing", [=](Communicator& c) {
         if (is_last(c)) throw Error("'missing' is left out by rank " + std::to_string(c.rank()));
         c.barrier("missing");
       }}};
}

bool is_named(const Error& error) {
  const std::string text = error.what();
  const bool waited = text.find('\'') != std::string::npos && text.find("rank ") != std::string::npos;
  return waited || text.find("ranks disagree about what comes next") != std::string::npos;
}

}  // namespace rekindle
