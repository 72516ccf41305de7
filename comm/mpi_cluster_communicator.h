// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <mpi.h>

#include <deque>
#include <memory>
#include <vector>

#include "comm/mpi_messages.h"
#include "comm/node_communicator.h"
#include "comm/node_sums.h"

namespace rekindle {

// Ranks on several nodes; a node may be one rank alone, so this is also how ranks exchange that share no
// memory. Within a node they read each other's memory; between nodes every slice has one reader a node, the
// owner's namesake: the rank with the owner's index in its node, modulo that node's ranks. Namesakes add what
// their node holds of the slice where it lies and send it to the owner; the owner sends what it made of the
// slice to its namesakes, who write it to their node's memory.
class MpiClusterCommunicator : public Communicator {
 public:
  // Collective over `comm`, which it owns from then on. `node` is of the ranks of this one's node.
  MpiClusterCommunicator(MPI_Comm comm, std::unique_ptr<NodeCommunicator> node,
                         std::shared_ptr<MpiMessages> messages);
  ~MpiClusterCommunicator() override;

  at::Tensor allocate(int64_t numel, at::ScalarType dtype) override;
  at::Tensor allocate_shared(int64_t numel, at::ScalarType dtype) override;
  bool fills_shared() const override { return node_->fills_shared(); }
  void all_reduce(at::Tensor tensor, Op op, const char* name) override;
  void reduce_scatter(at::Tensor parts, Range range, const SumPlan& plan, at::Tensor squares) override;
  void all_gather(at::Tensor tensor, Range range, int64_t unit) override;
  void join(const char* name) override;
  void broadcast(at::Tensor tensor, int root, const char* name) override;
  void barrier(const char* name) override;
  std::unique_ptr<Communicator> split(int group) override;
  void abort() noexcept override { node_->abort(); }  // mpirun ends the ranks of other nodes

 private:
  using Buffer = std::vector<float>;
  using Tickets = std::vector<MpiMessages::Ticket>;
  struct Reducing {
    uint64_t operation;  // of the node
    int tag;
    Range range;
    int64_t row;  // elements in one
    NodeCommunicator::Region parts;
    double* squares;
    NodeSums sums;
    Tickets sends, receives;
    std::vector<Buffer> received;  // the other nodes' sums of this rank's slice
    bool added_within_node = false, added_over_nodes = false;

    float* at(NodeSum::Part part, int64_t element) const {
      return reinterpret_cast<float*>(parts[part.local]) + part.row * row + element;
    }
  };

  struct Gathering {
    at::Tensor tensor;
    NodeCommunicator::Place place;
    Range range;
    int64_t unit;
    Tickets messages;
  };

  void meet_nodes();
  int nodes() const { return static_cast<int>(nodes_.size()); }
  int namesake(int owner, int node) const;
  bool is_namesake(int owner) const { return namesake(owner, node_of_[rank()]) == rank(); }
  std::string called(int rank) const;
  MpiMessages::Ticket send(const void* data, size_t bytes, int peer, int tag);
  MpiMessages::Ticket receive(void* data, size_t bytes, int peer, int tag);

  void reduce_chunk(std::byte* values, Element element, Reduction reduction, int64_t count, const char* name);
  void add_within_node(Reducing& reducing);
  void add_over_nodes(Reducing& reducing);
  Buffer take_buffer(int64_t count);
  void progress();
  void finish_gatherings(const char* name);
  void fetch(const Gathering& gathering) const;

  MPI_Comm comm_;
  std::unique_ptr<NodeCommunicator> node_;
  std::shared_ptr<MpiMessages> messages_;
  std::vector<NodeRanks> nodes_;
  std::vector<int> node_of_, local_of_, names_;  // by rank; names: what they are called in errors
  MPI_Comm leaders_ = MPI_COMM_NULL;             // the first rank of each node; null on the others

  at::Tensor staged_, result_;  // of all_reduce: what each rank gives, and what comes of it, one a node
  std::vector<std::byte> received_;
  std::vector<Buffer> spare_;
  uint64_t started_ = 0;  // reductions and gatherings
  std::deque<Reducing> reducing_;
  std::deque<Gathering> gathering_;
};

}  // namespace rekindle
