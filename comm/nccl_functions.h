// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <ATen/core/Tensor.h>

#include <array>
#include <cstddef>
#include <functional>
#include <string>

namespace rekindle {

// The numbers are those of nccl.h, which is not included here: this compiles where there is no CUDA.
enum class NcclResult {
  kSuccess = 0,
  kUnhandledCudaError = 1,
  kSystemError = 2,
  kInternalError = 3,
  kInvalidArgument = 4,
  kInvalidUsage = 5,
  kRemoteError = 6,
  kInProgress = 7,
};
enum class NcclType { kUint8 = 1, kInt64 = 4, kFloat32 = 7, kFloat64 = 8 };
enum class NcclOp { kSum = 0, kMax = 2 };

struct NcclId {
  std::array<char, 128> bytes{};
};
using NcclComm = struct NcclCommHandle*;
using GpuStream = struct GpuStreamHandle*;
using GpuEvent = struct GpuEventHandle*;

inline constexpr int kGpuSuccess = 0, kGpuNotReady = 600;  // of cudaError_t

// Exactly what we call of NCCL and of CUDA's streams and events, for one GPU, as a table: load_nccl() fills
// it from the library, tests fill it with a fake. Names and arguments follow nccl.h and cuda_runtime_api.h.
struct NcclFunctions {
  // Of tensors on the GPU.
  at::Device device = at::kCPU;
  std::function<bool(const at::Tensor&)> is_on_device;

  // NCCL. Communicators are made with blocking = 0: after kInProgress nothing but get_async_error() may be
  // called on a communicator, and nothing be put on its stream, until that says something else.
  std::function<NcclResult(int* version)> get_version;
  std::function<NcclResult(NcclId* id)> get_unique_id;
  std::function<NcclResult(NcclComm* comm, int world, NcclId id, int rank)> comm_init_rank;
  std::function<NcclResult(NcclComm comm, int color, int key, NcclComm* child)> comm_split;
  std::function<NcclResult(NcclComm comm)> comm_finalize, comm_destroy;
  std::function<NcclResult(NcclComm comm, NcclResult* error)> get_async_error;
  std::function<std::string(NcclResult result)> error_string;
  std::function<std::string(NcclComm comm)> last_error;

  std::function<NcclResult(void** memory, size_t bytes)> mem_alloc;
  std::function<NcclResult(void* memory)> mem_free;
  std::function<NcclResult(NcclComm comm, void* memory, size_t bytes, void** handle)> comm_register;
  std::function<NcclResult(NcclComm comm, void* handle)> comm_deregister;
  // Undefined before NCCL 2.27.
  std::function<NcclResult(NcclComm comm, void* memory, size_t bytes, void** handle)> window_register;
  std::function<NcclResult(NcclComm comm, void* handle)> window_deregister;

  std::function<NcclResult()> group_start, group_end;
  std::function<NcclResult(const void*from, void*to, size_t count, NcclType type, NcclOp op, NcclComm comm,
                           GpuStream stream)>
      all_reduce, reduce_scatter;  // `count` of reduce_scatter: of what a rank receives
  std::function<NcclResult(const void* from, void* to, size_t count, NcclType type, NcclOp op, int root,
                           NcclComm comm, GpuStream stream)>
      reduce;
  std::function<NcclResult(const void* from, void* to, size_t count, NcclType type, int root, NcclComm comm,
                           GpuStream stream)>
      broadcast;
  std::function<NcclResult(const void* from, void* to, size_t count, NcclType type, NcclComm comm,
                           GpuStream stream)>
      all_gather;  // `count` of what a rank sends
  std::function<NcclResult(const void* from, size_t count, NcclType type, int peer, NcclComm comm,
                           GpuStream stream)>
      send;
  std::function<NcclResult(void* to, size_t count, NcclType type, int peer, NcclComm comm, GpuStream stream)>
      recv;

  // CUDA. The numbers that come back are of cudaError_t.
  std::function<std::string(int error)> gpu_error_string;
  std::function<int()> set_device;                                           // of the calling thread
  std::function<int(std::string* uuid, std::string* name)> describe_device;  // name: model and driver
  std::function<int(GpuStream* stream)> make_stream;                         // of high priority
  std::function<int(GpuStream stream)> destroy_stream;
  std::function<int(GpuEvent* event)> make_event;
  std::function<int(GpuEvent event)> destroy_event;
  std::function<int(GpuEvent event, GpuStream stream)> record_event;
  std::function<int(GpuStream stream, GpuEvent event)> wait_event;
  std::function<int(GpuEvent event)> query_event;
  std::function<int(void* memory, size_t bytes, GpuStream stream)> zero;

  // ATen on the GPU: the calling thread's stream; keeping memory of ATen's from being used again before
  // `stream` is done with it (record_stream); and running `work` with `stream` as the current one.
  std::function<GpuStream()> current_stream;
  std::function<void(const at::Tensor& tensor, GpuStream stream)> record_stream;
  std::function<void(GpuStream stream, std::function<void()> work)> run_on;
};

}  // namespace rekindle
