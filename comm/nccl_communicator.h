// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <atomic>
#include <chrono>
#include <deque>
#include <memory>
#include <mutex>
#include <optional>
#include <string>

#include "comm/communicator.h"
#include "comm/nccl_functions.h"
#include "comm/nccl_watch.h"
#include "comm/options.h"

namespace rekindle {

// Ranks with one GPU each, for tensors on it. Tensors of the CPU, texts, barriers and what is agreed before
// NCCL is asked go through `host`, the communicator of the same ranks on their hosts.
//
// What is started is put on a stream of its own, after all that the caller's stream holds by then; join()
// makes the caller's stream wait for it. The host waits for NCCL to have put it there, with the deadline, and
// not for the GPU: a watch does that. The calls may come from different threads, one after the other, for
// backward runs on threads of its own; reduce_scatter never calls `host`, which may be bound to one thread.
//
// NCCL takes a communicator down together with the other ranks. So the destructor leaves it to the end of the
// process, together with the memory that it knows of, unless close() came before.
class NcclCommunicator : public Communicator {
 public:
  // Collective. `lost` is called once, from another thread, where a wait on the GPU has missed its deadline
  // or NCCL reports an error by itself: the process cannot go on, and is best left at once, as the caller may
  // hang in CUDA. From then on every call throws the same error.
  NcclCommunicator(NcclFunctions functions, std::shared_ptr<Communicator> host, const CommOptions& options,
                   NcclWatch::Lost lost);
  ~NcclCommunicator() override;

  void close() override;  // waits for what was started

  at::Device device() const override { return functions_.device; }
  std::string device_name() const override { return device_name_; }
  Communicator& host() override { return *host_; }
  at::Tensor allocate(int64_t numel, at::ScalarType dtype) override;
  at::Tensor allocate_shared(int64_t numel, at::ScalarType dtype) override { return allocate(numel, dtype); }
  bool fills_shared() const override { return true; }
  void all_reduce(at::Tensor tensor, Op op, const char* name) override;
  void reduce_scatter(at::Tensor parts, Range range, const SumPlan& plan, at::Tensor squares) override;
  void all_gather(at::Tensor tensor, Range range, int64_t unit) override;
  void join(const char* name) override;
  void broadcast(at::Tensor tensor, int root, const char* name) override;
  void barrier(const char* name) override { host_->barrier(name); }
  std::unique_ptr<Communicator> split(int group) override;
  void abort() noexcept override;

 private:
  using Lock = std::unique_lock<std::mutex>;
  enum class Registration { kNone, kBuffer, kWindow };
  struct Memory {
    void* at = nullptr;
    size_t bytes = 0;
    void* handle = nullptr;  // of its registration; NCCL writes it when it gets there
  };

  NcclCommunicator(const NcclCommunicator& parent, std::shared_ptr<Communicator> host);

  void meet();
  void start();

  Lock enter(const char* name);
  void check(NcclResult result, const char* call, const char* name);
  void poll(NcclComm comm, const char* call, const char* name);
  void check_gpu(int result, const char* call, const char* name) const;
  [[noreturn]] void fail(NcclResult result, const char* call, const char* name) const;
  std::optional<Error> look();

  template <typename Calls>
  void in_group(const char* call, const char* name, const Calls& calls);
  void follow_caller(const at::Tensor& tensor, const char* name);
  void wait_for_gpu(const char* name);

  Memory& take_memory(size_t bytes, const char* name);
  void register_memory(Memory& memory, const char* name);
  bool is_ours(const at::Tensor& tensor) const;
  at::Tensor wrap(const Memory& memory, int64_t numel, at::ScalarType dtype) const;
  at::Tensor scratch(int64_t numel);

  void sum_by_nccl(float* values, Range range);
  void sum_by_plan(const at::Tensor& parts, Range range, const SumPlan& plan);

  const NcclFunctions functions_;
  const std::shared_ptr<Communicator> host_;
  const CommOptions options_;
  const NcclWatch::Lost lost_;
  std::string device_name_;
  Registration registration_ = Registration::kNone;

  std::mutex mutex_;  // held while a call is on its way: NCCL may not be asked anything else then
  std::atomic<uint64_t> calls_ = 0;
  NcclComm comm_ = nullptr, child_ = nullptr;
  GpuStream stream_ = nullptr;
  GpuEvent before_ = nullptr;  // what the caller's stream had before
  bool started_ = false;       // something that no join() has waited for
  std::deque<Memory> memory_;  // its elements stay where they are
  at::Tensor scratch_;
  std::unique_ptr<NcclWatch> watch_;

  // Of look() alone.
  uint64_t seen_calls_ = 0;
  std::optional<std::chrono::steady_clock::time_point> stuck_since_;
};

// Collective. Which of the `gpus` that a rank sees is its own, at that place among the ranks of its node; -1
// where no rank sees any. A rank that sees one GPU takes that, for it may have been given it alone.
int choose_gpu(Communicator& host, int place, int gpus);

}  // namespace rekindle
