// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <ATen/core/Tensor.h>

#include <memory>
#include <string>
#include <vector>

#include "comm/nccl_functions.h"
#include "core/error.h"

namespace rekindle {

// GPUs and an NCCL for ranks that are threads of this process, in the memory of the host. It moves real data,
// and refuses what the documents of NCCL and CUDA forbid: calls without the device set, or on a communicator
// that is in progress or gone; polling inside a group, or one that is left open; collectives that differ
// between ranks in order, kind, size or type; memory that NCCL does not know, or that one rank has registered
// and another has not; registrations in another order; a stream that was not made to wait for what the caller
// did before; memory of the caching allocator without record_stream; an end with work on its way.
//
// The caller's stream is the host itself: what a test does between two calls stands for kernels that it would
// launch. All other streams are queues whose work is done only when the caller's stream waits for an event of
// theirs. So whoever forgets to wait sees old data.
class FakeNccl {
 public:
  explicit FakeNccl(int world);
  ~FakeNccl();

  NcclFunctions functions(int rank);

  // What the machines are like; to be set before the first call.
  void set_version(int rank, int version);
  void set_uuid(int rank, const std::string& uuid);
  void set_memory(int rank, size_t bytes);  // that can be had
  void set_windows(bool has_windows);       // an NCCL before 2.27 has none
  void set_polls(int polls);                // how often a call that goes on behind is still in progress

  // Faults of the k-th call, from 1, of that name by that rank.
  void fail(int rank, const std::string& call, int k, NcclResult result);
  void fail_gpu(int rank, const std::string& call, int k);
  void hang(int rank, const std::string& call, int k);  // it is in progress for ever
  void report(int rank, NcclResult error);              // NCCL finds something out, from now on

  // The caller's code ran on that rank: whatever it wrote since, no stream has waited for; and it may go on
  // on another thread, with another device.
  void caller_ran(int rank);
  // Whoever hangs in CUDA on that rank gets this error, instead of being ended with the process.
  void release(int rank, const Error& error);

  at::Tensor cached_tensor(int rank, int64_t numel, at::ScalarType dtype);  // of the caching allocator

  std::vector<std::string> complaints() const;     // what was refused
  std::vector<std::string> calls(int rank) const;  // NCCL's names, polls left out
  std::vector<std::string> registrations(int rank) const;
  size_t memory_in_use(int rank) const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace rekindle
