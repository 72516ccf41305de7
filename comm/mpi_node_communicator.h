// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <mpi.h>

#include <memory>
#include <vector>

#include "comm/node_communicator.h"

namespace rekindle {

// Ranks as processes of one node. A region is a memfd that every rank maps through /proc/PID/fd: it has no
// name, so nothing is left behind after a kill -9, and it needs no room in /dev/shm, which containers keep
// small. MPI serves only to tell each other where the memory is.
class MpiNodeCommunicator : public NodeCommunicator {
 public:
  // Collective over `comm`, which it owns from then on: ranks of one machine. Null, on every rank, where some
  // rank cannot map the others' memory.
  static std::unique_ptr<MpiNodeCommunicator> create(MPI_Comm comm, SharedGroup::Setting setting);
  ~MpiNodeCommunicator() override;

 private:
  struct Mapping;

  MpiNodeCommunicator(MPI_Comm comm, int rank, int world);
  bool try_map(size_t bytes, bool one_for_all, Region& region);
  Region map_region(size_t bytes, bool one_for_all) override;
  std::unique_ptr<NodeCommunicator> split_off(const std::vector<int>& members, int index) override;

  MPI_Comm comm_;
  std::vector<std::unique_ptr<Mapping>> mappings_;
};

}  // namespace rekindle
