// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>

#include "comm/communicator.h"
#include "comm/options.h"

namespace rekindle {

// MPI from its start to its end: one object, made first thing in `main`, destroyed last, after every
// communicator. MPI is called from the thread that made it, and from that of MpiMessages. Without mpirun it
// is a world of one.
class MpiSession {
 public:
  MpiSession(int* argc, char*** argv);
  ~MpiSession();  // waits for the other ranks, as MPI_Finalize does
  MpiSession(const MpiSession&) = delete;
  MpiSession& operator=(const MpiSession&) = delete;

  int rank() const { return rank_; }
  int world() const { return world_; }

  // Collective. Where there are GPUs, each rank takes the one of its place on the node, and they exchange by
  // NCCL: a node with some GPUs and more ranks is an error. Without, or between their hosts, ranks of one node
  // exchange through memory that they share, nodes by messages. Where that memory cannot be had on some rank,
  // all exchange by messages alone, and rank 0 logs so.
  std::unique_ptr<Communicator> make_communicator(const CommOptions& options);

  // Leaves with this exit code, upon which mpirun ends the others: for an error that they do not know of.
  [[noreturn]] void leave(int exit_code);

 private:
  std::unique_ptr<Communicator> make_host_communicator(const CommOptions& options);

  int rank_ = 0, world_ = 1;
  bool may_help_ = false;  // another thread may call MPI, one at a time
};

}  // namespace rekindle
