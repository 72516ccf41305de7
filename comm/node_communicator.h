// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <chrono>
#include <cstddef>
#include <deque>
#include <memory>
#include <vector>

#include "comm/communicator.h"
#include "comm/shared_group.h"

namespace rekindle {

// Ranks that can read each other's memory: processes of one node, or threads of one process. Gradients are
// summed where they lie, each rank its slice; there is no copy and no other thread. How a region of memory
// comes to be seen by all ranks is what the two kinds differ in.
class NodeCommunicator : public Communicator {
 public:
  at::Tensor allocate(int64_t numel, at::ScalarType dtype) override;
  at::Tensor allocate_shared(int64_t numel, at::ScalarType dtype) override;
  bool fills_shared() const override { return rank() == 0; }
  void all_reduce(at::Tensor tensor, Op op, const char* name) override;
  void reduce_scatter(at::Tensor parts, Range range, const SumPlan& plan, at::Tensor squares) override;
  void all_gather(at::Tensor tensor, Range range, int64_t unit) override;
  void join(const char* name) override;
  void broadcast(at::Tensor tensor, int root, const char* name) override;
  void barrier(const char* name) override;
  void abort() noexcept override { group_->abort(); }

 protected:
  // Where one allocation lies, as seen by this rank: one address for every rank's region.
  using Region = std::vector<std::byte*>;

  NodeCommunicator(int rank, int world) : Communicator(rank, world) {}

  // Collective: zeroed regions of `bytes` for every rank, or one for all. They live as long as this object.
  virtual Region map_region(size_t bytes, bool one_for_all) = 0;

  // To be called once, with memory that all ranks see, before any of the calls above.
  void meet(std::byte* group_memory, std::chrono::milliseconds deadline);

 private:
  struct Allocation {
    Region region;
    size_t bytes;
    bool one_for_all;
  };
  struct Reduction {  // that was started
    uint64_t operation;
    const Allocation* allocation;
    int64_t row;  // elements in one
    Range slice;
    const SumPlan* plan;
    double* squares;
  };
  struct Gathering {
    uint64_t operation;
    const Allocation* allocation;
    at::Tensor tensor;
    Range range;
    int64_t unit;
  };

  at::Tensor allocate_region(int64_t numel, at::ScalarType dtype, bool one_for_all);
  const Allocation* find(const at::Tensor& tensor) const;
  std::byte* staging(int rank, uint64_t use) const;
  void reduce_staged(at::Tensor& tensor, Op op, const char* name);
  void reduce_slice(const Reduction& reduction);
  void progress();
  void fetch(const Gathering& gathering);

  std::unique_ptr<SharedGroup> group_;
  Region staging_;  // two buffers a rank, used in turn
  uint64_t staged_ = 0;
  std::deque<Allocation> allocations_;
  std::deque<Reduction> reductions_;
  std::deque<Gathering> gatherings_;
};

}  // namespace rekindle
