// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <deque>
#include <memory>
#include <vector>

#include "comm/combine.h"
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
  std::unique_ptr<Communicator> split(int group) override { return split_node(group); }
  std::unique_ptr<NodeCommunicator> split_node(int group);
  void abort() noexcept override { group_->abort(); }

  // One address for every rank, as seen by this one.
  using Region = std::vector<std::byte*>;

  // For a communicator of several nodes, which has this one within its node: how these ranks meet, and where
  // a tensor from allocate() or allocate_shared() lies in each rank's memory.
  struct Place {
    Region address;
    bool one_for_all;
    int64_t id;  // the same on every rank if it is the same place
  };
  SharedGroup& group() { return *group_; }
  Place place_of(const at::Tensor& tensor, const char* name) const;

 protected:
  NodeCommunicator(int rank, int world) : Communicator(rank, world) {}

  // Collective: zeroed regions of `bytes` for every rank, or one for all. They live as long as this object.
  virtual Region map_region(size_t bytes, bool one_for_all) = 0;

  // Collective among those in `members` alone, who are in one group; `index` is this rank's among them.
  virtual std::unique_ptr<NodeCommunicator> split_off(const std::vector<int>& members, int index) = 0;
  SharedGroup::Setting setting_of(const std::vector<int>& members) const;  // of their group

  // To be called once, with memory that all ranks see, before any of the calls above.
  void meet(std::byte* group_memory, SharedGroup::Setting setting);

 private:
  struct Allocation {
    Region region;
    size_t bytes;
    bool one_for_all;
    int64_t id;
  };
  struct Reducing {  // that was started
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
  void reduce_in_place(const at::Tensor& tensor, Element element, Op op, const Allocation& allocation,
                       const char* name);
  void reduce_staged(at::Tensor& tensor, Element element, Op op, const char* name);
  void reduce_slice(const Reducing& reducing);
  void progress();
  void fetch(const Gathering& gathering);

  std::unique_ptr<SharedGroup> group_;
  Region staging_;  // two buffers a rank, used in turn
  uint64_t staged_ = 0;
  std::deque<Allocation> allocations_;
  std::deque<Reducing> reductions_;
  std::deque<Gathering> gatherings_;
};

// Throws Error, with `name` as the call, where elements of this type are not combined.
Element element_of(const at::Tensor& tensor, const char* name);

// The ranks of `communicator` that give the same `group` as this one, ascending. Collective.
std::vector<int> members_of_group(Communicator& communicator, int group);

}  // namespace rekindle
