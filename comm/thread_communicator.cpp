// SPDX-License-Identifier: Apache-2.0
#include "comm/thread_communicator.h"

#include <algorithm>
#include <exception>
#include <map>
#include <mutex>
#include <thread>
#include <utility>
#include <vector>

#include "comm/node_communicator.h"

namespace rekindle {
namespace {

// What the threads share: the memory that they meet in, and every region that one of them has made.
struct ThreadWorld {
  struct Free {
    void operator()(std::byte* memory) const { ::operator delete[](memory, std::align_val_t{64}); }
  };
  using Memory = std::unique_ptr<std::byte[], Free>;

  static Memory zeroed(size_t bytes) {
    Memory memory(static_cast<std::byte*>(::operator new[](bytes, std::align_val_t{64})));
    std::fill_n(memory.get(), bytes, std::byte{0});
    return memory;
  }

  explicit ThreadWorld(int world) : group(zeroed(SharedGroup::bytes_for(world))) {}

  std::byte* region(size_t index, int rank, int world, size_t bytes) {
    const std::lock_guard lock(mutex);
    if (regions.size() <= index) regions.resize(index + 1);
    if (regions[index].empty()) regions[index].resize(world);
    Memory& memory = regions[index][rank];
    if (!memory) memory = zeroed(bytes);
    return memory.get();
  }

  // The world of one group of the `index`-th split.
  ThreadWorld& within(size_t index, const std::vector<int>& members) {
    const std::lock_guard lock(mutex);
    auto& world = splits[{index, members.front()}];
    if (!world) world = std::make_unique<ThreadWorld>(static_cast<int>(members.size()));
    return *world;
  }

  Memory group;
  std::mutex mutex;
  std::vector<std::vector<Memory>> regions;
  std::map<std::pair<size_t, int>, std::unique_ptr<ThreadWorld>> splits;
};

class ThreadCommunicator : public NodeCommunicator {
 public:
  ThreadCommunicator(int rank, int world, ThreadWorld& shared, SharedGroup::Setting setting)
      : NodeCommunicator(rank, world), shared_(shared) {
    meet(shared.group.get(), std::move(setting));
  }

 private:
  // Whoever comes first makes the memory, so nobody has to wait for anyone.
  Region map_region(size_t bytes, bool one_for_all) override {
    Region region;
    const size_t index = made_++;
    for (int r = 0; r < world(); ++r)
      region.push_back(shared_.region(index, one_for_all ? 0 : r, world(), bytes));
    return region;
  }

  std::unique_ptr<NodeCommunicator> split_off(const std::vector<int>& members, int index) override {
    ThreadWorld& within = shared_.within(splits_++, members);
    return std::make_unique<ThreadCommunicator>(index, static_cast<int>(members.size()), within,
                                                setting_of(members));
  }

  ThreadWorld& shared_;
  size_t made_ = 0, splits_ = 0;
};

}  // namespace

void run_as_threads(int world, const CommOptions& options,
                    const std::function<void(Communicator&)>& rank_main) {
  ThreadWorld shared(world);
  std::mutex mutex;
  std::exception_ptr first;
  std::vector<std::thread> threads;
  for (int rank = 0; rank < world; ++rank) {
    threads.emplace_back([&, rank] {
      ThreadCommunicator communicator(rank, world, shared, {.deadline = options.deadline});
      try {
        rank_main(communicator);
      } catch (...) {
        {
          const std::lock_guard lock(mutex);
          if (!first) first = std::current_exception();
        }
        communicator.abort();
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  if (first) std::rethrow_exception(first);
}

}  // namespace rekindle
