// SPDX-License-Identifier: Apache-2.0
#include "comm/nccl_library.h"

#include <c10/cuda/CUDACachingAllocator.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>
#include <cuda_runtime_api.h>
#include <dlfcn.h>
#include <nccl.h>

#include <cstdio>

#include "core/error.h"

namespace rekindle {
namespace {

static_assert(static_cast<int>(NcclResult::kRemoteError) == ncclRemoteError &&
              static_cast<int>(NcclResult::kInProgress) == ncclInProgress);
static_assert(static_cast<int>(NcclType::kUint8) == ncclUint8 &&
              static_cast<int>(NcclType::kInt64) == ncclInt64);
static_assert(static_cast<int>(NcclType::kFloat32) == ncclFloat32 &&
              static_cast<int>(NcclType::kFloat64) == ncclFloat64);
static_assert(static_cast<int>(NcclOp::kSum) == ncclSum && static_cast<int>(NcclOp::kMax) == ncclMax);
static_assert(sizeof(NcclId) == sizeof(ncclUniqueId));
static_assert(kGpuNotReady == cudaErrorNotReady);

// Our opaque types and numbers into theirs.
ncclComm_t nccl(NcclComm comm) {
  return reinterpret_cast<ncclComm_t>(comm);
}
ncclDataType_t nccl(NcclType type) {
  return static_cast<ncclDataType_t>(type);
}
ncclRedOp_t nccl(NcclOp op) {
  return static_cast<ncclRedOp_t>(op);
}
cudaStream_t cuda(GpuStream stream) {
  return reinterpret_cast<cudaStream_t>(stream);
}
cudaEvent_t cuda(GpuEvent event) {
  return reinterpret_cast<cudaEvent_t>(event);
}
NcclResult ours(ncclResult_t result) {
  return static_cast<NcclResult>(result);
}

void* open_library(const char* name, const char* hint) {
  void* library = dlopen(name, RTLD_NOW | RTLD_GLOBAL);
  if (library == nullptr) throw Error(std::string(name) + " cannot be loaded: " + dlerror(), {"", hint});
  return library;
}

// Null where this NCCL is too old to have it.
template <typename Function>
Function* find(void* library, const char* name, Function*) {
  return reinterpret_cast<Function*>(dlsym(library, name));
}

template <typename Function>
Function* get(void* library, const char* name, Function* type) {
  Function* found = find(library, name, type);
  if (found == nullptr) {
    throw Error(std::string("this NCCL has no ") + name, {"libnccl.so.2", "NCCL 2.19 or newer is needed"});
  }
  return found;
}

// By its name in nccl.h, which is the declaration for its type too.
#define REKINDLE_NCCL(function) get(library, #function, static_cast<decltype(&(function))>(nullptr))
#define REKINDLE_NEWER_NCCL(function) find(library, #function, static_cast<decltype(&(function))>(nullptr))

void fill_communicators(NcclFunctions& table, void* library) {
  table.get_version = [f = REKINDLE_NCCL(ncclGetVersion)](int* version) { return ours(f(version)); };
  table.get_unique_id = [f = REKINDLE_NCCL(ncclGetUniqueId)](NcclId* id) {
    return ours(f(reinterpret_cast<ncclUniqueId*>(id)));
  };
  table.comm_init_rank = [f = REKINDLE_NCCL(ncclCommInitRankConfig)](NcclComm* comm, int world, NcclId id,
                                                                     int rank) {
    ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
    config.blocking = 0;
    ncclUniqueId theirs;
    std::copy(id.bytes.begin(), id.bytes.end(), theirs.internal);
    return ours(f(reinterpret_cast<ncclComm_t*>(comm), world, theirs, rank, &config));
  };
  table.comm_split = [f = REKINDLE_NCCL(ncclCommSplit)](NcclComm comm, int color, int key, NcclComm* child) {
    ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
    config.blocking = 0;
    return ours(f(nccl(comm), color, key, reinterpret_cast<ncclComm_t*>(child), &config));
  };
  table.comm_finalize = [f = REKINDLE_NCCL(ncclCommFinalize)](NcclComm comm) { return ours(f(nccl(comm))); };
  table.comm_destroy = [f = REKINDLE_NCCL(ncclCommDestroy)](NcclComm comm) { return ours(f(nccl(comm))); };
  table.get_async_error = [f = REKINDLE_NCCL(ncclCommGetAsyncError)](NcclComm comm, NcclResult* error) {
    ncclResult_t theirs = ncclSuccess;
    const ncclResult_t result = f(nccl(comm), &theirs);
    *error = ours(theirs);
    return ours(result);
  };
  table.error_string = [f = REKINDLE_NCCL(ncclGetErrorString)](NcclResult result) {
    return std::string(f(static_cast<ncclResult_t>(result)));
  };
  table.last_error = [f = REKINDLE_NCCL(ncclGetLastError)](NcclComm comm) {
    const char* text = f(nccl(comm));
    return std::string(text == nullptr ? "" : text);
  };
}

void fill_memory(NcclFunctions& table, void* library) {
  table.mem_alloc = [f = REKINDLE_NCCL(ncclMemAlloc)](void** memory, size_t bytes) {
    return ours(f(memory, bytes));
  };
  table.mem_free = [f = REKINDLE_NCCL(ncclMemFree)](void* memory) { return ours(f(memory)); };
  table.comm_register = [f = REKINDLE_NCCL(ncclCommRegister)](NcclComm comm, void* memory, size_t bytes,
                                                              void** handle) {
    return ours(f(nccl(comm), memory, bytes, handle));
  };
  table.comm_deregister = [f = REKINDLE_NCCL(ncclCommDeregister)](NcclComm comm, void* handle) {
    return ours(f(nccl(comm), handle));
  };
  const auto make = REKINDLE_NEWER_NCCL(ncclCommWindowRegister);
  const auto remove = REKINDLE_NEWER_NCCL(ncclCommWindowDeregister);
  if (make == nullptr || remove == nullptr) return;
  table.window_register = [make](NcclComm comm, void* memory, size_t bytes, void** handle) {
    return ours(
        make(nccl(comm), memory, bytes, reinterpret_cast<ncclWindow_t*>(handle), NCCL_WIN_COLL_SYMMETRIC));
  };
  table.window_deregister = [remove](NcclComm comm, void* handle) {
    return ours(remove(nccl(comm), static_cast<ncclWindow_t>(handle)));
  };
}

void fill_collectives(NcclFunctions& table, void* library) {
  table.group_start = [f = REKINDLE_NCCL(ncclGroupStart)] { return ours(f()); };
  table.group_end = [f = REKINDLE_NCCL(ncclGroupEnd)] { return ours(f()); };
  table.all_reduce = [f = REKINDLE_NCCL(ncclAllReduce)](const void* from, void* to, size_t count,
                                                        NcclType type, NcclOp op, NcclComm comm,
                                                        GpuStream stream) {
    return ours(f(from, to, count, nccl(type), nccl(op), nccl(comm), cuda(stream)));
  };
  table.reduce_scatter = [f = REKINDLE_NCCL(ncclReduceScatter)](const void* from, void* to, size_t count,
                                                                NcclType type, NcclOp op, NcclComm comm,
                                                                GpuStream stream) {
    return ours(f(from, to, count, nccl(type), nccl(op), nccl(comm), cuda(stream)));
  };
  table.reduce = [f = REKINDLE_NCCL(ncclReduce)](const void* from, void* to, size_t count, NcclType type,
                                                 NcclOp op, int root, NcclComm comm, GpuStream stream) {
    return ours(f(from, to, count, nccl(type), nccl(op), root, nccl(comm), cuda(stream)));
  };
  table.broadcast = [f = REKINDLE_NCCL(ncclBroadcast)](const void* from, void* to, size_t count,
                                                       NcclType type, int root, NcclComm comm,
                                                       GpuStream stream) {
    return ours(f(from, to, count, nccl(type), root, nccl(comm), cuda(stream)));
  };
  table.all_gather = [f = REKINDLE_NCCL(ncclAllGather)](const void* from, void* to, size_t count,
                                                        NcclType type, NcclComm comm, GpuStream stream) {
    return ours(f(from, to, count, nccl(type), nccl(comm), cuda(stream)));
  };
  table.send = [f = REKINDLE_NCCL(ncclSend)](const void* from, size_t count, NcclType type, int peer,
                                             NcclComm comm, GpuStream stream) {
    return ours(f(from, count, nccl(type), peer, nccl(comm), cuda(stream)));
  };
  table.recv = [f = REKINDLE_NCCL(ncclRecv)](void* to, size_t count, NcclType type, int peer, NcclComm comm,
                                             GpuStream stream) {
    return ours(f(to, count, nccl(type), peer, nccl(comm), cuda(stream)));
  };
}

int describe_device(int gpu, std::string* uuid, std::string* name) {
  cudaDeviceProp properties;
  cudaError_t error = cudaGetDeviceProperties(&properties, gpu);
  if (error != cudaSuccess) return error;
  int driver = 0;
  if ((error = cudaDriverGetVersion(&driver)) != cudaSuccess) return error;
  *name = std::string(properties.name) + ", capability " + std::to_string(properties.major) + "." +
          std::to_string(properties.minor) + ", driver for CUDA " + std::to_string(driver / 1000) + "." +
          std::to_string(driver % 1000 / 10);
  for (const char byte : properties.uuid.bytes) {
    char digits[3];
    std::snprintf(digits, sizeof digits, "%02x", static_cast<unsigned char>(byte));
    *uuid += digits;
  }
  return cudaSuccess;
}

int make_stream(GpuStream* stream) {
  int lowest = 0, highest = 0;
  const cudaError_t error = cudaDeviceGetStreamPriorityRange(&lowest, &highest);
  if (error != cudaSuccess) return error;
  return cudaStreamCreateWithPriority(reinterpret_cast<cudaStream_t*>(stream), cudaStreamNonBlocking,
                                      highest);
}

void fill_cuda(NcclFunctions& table, int gpu) {
  table.gpu_error_string = [](int error) {
    return std::string(cudaGetErrorString(static_cast<cudaError_t>(error)));
  };
  table.set_device = [gpu] { return static_cast<int>(cudaSetDevice(gpu)); };
  table.describe_device = [gpu](std::string* uuid, std::string* name) {
    return describe_device(gpu, uuid, name);
  };
  table.make_stream = make_stream;
  table.destroy_stream = [](GpuStream stream) { return static_cast<int>(cudaStreamDestroy(cuda(stream))); };
  table.make_event = [](GpuEvent* event) {
    return static_cast<int>(
        cudaEventCreateWithFlags(reinterpret_cast<cudaEvent_t*>(event), cudaEventDisableTiming));
  };
  table.destroy_event = [](GpuEvent event) { return static_cast<int>(cudaEventDestroy(cuda(event))); };
  table.record_event = [](GpuEvent event, GpuStream stream) {
    return static_cast<int>(cudaEventRecord(cuda(event), cuda(stream)));
  };
  table.wait_event = [](GpuStream stream, GpuEvent event) {
    return static_cast<int>(cudaStreamWaitEvent(cuda(stream), cuda(event), 0));
  };
  table.query_event = [](GpuEvent event) { return static_cast<int>(cudaEventQuery(cuda(event))); };
  table.zero = [](void* memory, size_t bytes, GpuStream stream) {
    return static_cast<int>(cudaMemsetAsync(memory, 0, bytes, cuda(stream)));
  };
}

void fill_aten(NcclFunctions& table, int gpu) {
  const auto index = static_cast<c10::DeviceIndex>(gpu);
  table.device = at::Device(at::kCUDA, index);
  table.is_on_device = [device = table.device](const at::Tensor& tensor) {
    return tensor.device() == device;
  };
  table.current_stream = [index] {
    return reinterpret_cast<GpuStream>(c10::cuda::getCurrentCUDAStream(index).stream());
  };
  table.record_stream = [index](const at::Tensor& tensor, GpuStream stream) {
    c10::cuda::CUDACachingAllocator::recordStream(tensor.storage().data_ptr(),
                                                  c10::cuda::getStreamFromExternal(cuda(stream), index));
  };
  table.run_on = [index](GpuStream stream, const std::function<void()>& work) {
    const c10::cuda::CUDAStreamGuard guard(c10::cuda::getStreamFromExternal(cuda(stream), index));
    work();
  };
}

}  // namespace

int count_gpus() {
  int count = 0;
  return cudaGetDeviceCount(&count) == cudaSuccess ? count : 0;
}

NcclFunctions load_nccl(int gpu) {
  open_library("libtorch_cuda.so", "it lies beside libtorch_cpu.so in the LibTorch that this was built with");
  void* library =
      open_library("libnccl.so.2", "PyTorch's wheel brings it as nvidia-nccl; a LibTorch archive does not");
  NcclFunctions table;
  fill_communicators(table, library);
  fill_memory(table, library);
  fill_collectives(table, library);
  fill_cuda(table, gpu);
  fill_aten(table, gpu);
  return table;
}

}  // namespace rekindle
