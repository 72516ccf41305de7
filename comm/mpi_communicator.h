// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <mpi.h>

#include <chrono>
#include <vector>

#include "comm/communicator.h"
#include "comm/options.h"

namespace rekindle {

// Ranks anywhere, through MPI alone. It tests and sleeps and never blocks inside MPI, whose spinning would
// take the processor from the training.
class MpiCommunicator : public Communicator {
 public:
  MpiCommunicator(MPI_Comm parent, const CommOptions& options);  // collective; duplicates `parent`

  at::Tensor allocate(int64_t numel, at::ScalarType dtype) override;
  at::Tensor allocate_shared(int64_t numel, at::ScalarType dtype) override { return allocate(numel, dtype); }
  bool fills_shared() const override { return true; }
  void all_reduce(at::Tensor tensor, Op op, const char* name) override;
  void reduce_scatter(at::Tensor parts, Range range, const SumPlan& plan, at::Tensor squares) override;
  void all_gather(at::Tensor tensor, Range range, int64_t unit) override;
  void join(const char* name) override;
  void broadcast(at::Tensor tensor, int root, const char* name) override;
  void barrier(const char* name) override;
  void abort() noexcept override {}  // mpirun ends the ranks that wait

 private:
  struct Pending {
    MPI_Request request;
    float* flat;
    Range slice;
    double* squares;
  };

  void wait(MPI_Request request, const char* name);

  MPI_Comm comm_;
  std::chrono::milliseconds deadline_;
  std::vector<Pending> pending_;
};

}  // namespace rekindle
