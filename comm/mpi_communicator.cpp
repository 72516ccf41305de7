// SPDX-License-Identifier: Apache-2.0
#include "comm/mpi_communicator.h"

#include <ATen/ops/zeros.h>

#include <algorithm>
#include <string>
#include <thread>

#include "comm/mpi_calls.h"
#include "comm/sum.h"

namespace rekindle {
namespace {

using Clock = std::chrono::steady_clock;

constexpr int64_t kMostElements = 1 << 28;  // of one call: MPI counts with an int
constexpr size_t kBroadcastChunk = 16 << 20;

int rank_in(MPI_Comm comm) {
  int rank = 0;
  MPI_Comm_rank(comm, &rank);
  return rank;
}

int size_of(MPI_Comm comm) {
  int size = 1;
  MPI_Comm_size(comm, &size);
  return size;
}

MPI_Datatype type_of(const at::Tensor& tensor, const char* name) {
  switch (tensor.scalar_type()) {
    case at::kFloat:
      return MPI_FLOAT;
    case at::kDouble:
      return MPI_DOUBLE;
    case at::kLong:
      return MPI_INT64_T;
    case at::kByte:
      return MPI_UINT8_T;
    default:
      throw Error(std::string("'") + name + "': elements of type " + at::toString(tensor.scalar_type()) +
                  " are not reduced");
  }
}

}  // namespace

MpiCommunicator::MpiCommunicator(MPI_Comm parent, const CommOptions& options)
    : Communicator(rank_in(parent), size_of(parent)), deadline_(options.deadline) {
  check_mpi(MPI_Comm_dup(parent, &comm_), "MPI_Comm_dup");
  MPI_Comm_set_errhandler(comm_, MPI_ERRORS_RETURN);
}

void MpiCommunicator::wait(MPI_Request request, const char* name) {
  const auto start = Clock::now();
  while (true) {
    int done = 0;
    check_mpi(MPI_Test(&request, &done, MPI_STATUS_IGNORE), name);
    if (done) return;
    const auto waited = Clock::now() - start;
    if (waited > deadline_) {
      throw Error("'" + std::string(name) + "' was not reached by all ranks within " +
                      std::to_string(deadline_.count() / 1000.0) + " s",
                  {"rank " + std::to_string(rank()),
                   "a worker hangs or is stopped; run.deadline sets how long to wait"});
    }
    // Eager at first, for the peer is near; then it sleeps, for the peer needs the processor.
    if (waited > std::chrono::microseconds(50)) std::this_thread::sleep_for(std::chrono::microseconds(50));
  }
}

at::Tensor MpiCommunicator::allocate(int64_t numel, at::ScalarType dtype) {
  return at::zeros({numel}, at::TensorOptions().dtype(dtype));
}

void MpiCommunicator::all_reduce(at::Tensor tensor, Op op, const char* name) {
  auto* at = static_cast<std::byte*>(tensor.data_ptr());
  for (int64_t begin = 0; begin < tensor.numel(); begin += kMostElements) {
    const int count = static_cast<int>(std::min(kMostElements, tensor.numel() - begin));
    MPI_Request request;
    check_mpi(MPI_Iallreduce(MPI_IN_PLACE, at + begin * tensor.element_size(), count, type_of(tensor, name),
                             op == Op::kSum ? MPI_SUM : MPI_MAX, comm_, &request),
              name);
    wait(request, name);
  }
}

void MpiCommunicator::reduce_scatter(at::Tensor parts, Range range, const SumPlan& plan, at::Tensor squares) {
  if (plan.is_tree()) throw Error("ranks that share no memory do not add along a tree");
  // MPI's own reduce-scatter in place leaves the result elsewhere; all-reduce leaves it where it belongs.
  float* values = parts.data_ptr<float>();
  for (int64_t begin = range.begin; begin < range.end; begin += kMostElements) {
    const Range part{begin, std::min(range.end, begin + kMostElements)};
    MPI_Request request;
    check_mpi(MPI_Iallreduce(MPI_IN_PLACE, values + part.begin, static_cast<int>(part.size()), MPI_FLOAT,
                             MPI_SUM, comm_, &request),
              "gradient sum");
    const Range slice = FlatLayout::slice(range, rank(), world()).intersect(part);
    pending_.push_back({request, values, slice, squares.data_ptr<double>()});
  }
}

void MpiCommunicator::join(const char* name) {
  for (const Pending& pending : pending_) {
    wait(pending.request, name);
    for (int64_t at = pending.slice.begin; at < pending.slice.end; at += kBlock) {
      pending.squares[at / kBlock] = sum_of_squares(pending.flat + at, kBlock);
    }
  }
  pending_.clear();
}

void MpiCommunicator::all_gather(at::Tensor flat, Range range, int64_t unit) {
  const char* name = "all_gather";
  auto* at = static_cast<std::byte*>(flat.data_ptr());
  for (int root = 0; root < world(); ++root) {
    const Range slice = FlatLayout::slice(range, root, world(), unit);
    if (slice.empty()) continue;
    for (int64_t begin = slice.begin; begin < slice.end; begin += kMostElements) {
      const int count = static_cast<int>(std::min(kMostElements, slice.end - begin));
      MPI_Request request;
      check_mpi(
          MPI_Ibcast(at + begin * flat.element_size(), count, type_of(flat, name), root, comm_, &request),
          name);
      wait(request, name);
    }
  }
}

void MpiCommunicator::broadcast(at::Tensor tensor, int root, const char* name) {
  auto* at = static_cast<std::byte*>(tensor.data_ptr());
  for (size_t begin = 0; begin < tensor.nbytes(); begin += kBroadcastChunk) {
    const int count = static_cast<int>(std::min(kBroadcastChunk, tensor.nbytes() - begin));
    MPI_Request request;
    check_mpi(MPI_Ibcast(at + begin, count, MPI_BYTE, root, comm_, &request), name);
    wait(request, name);
  }
}

void MpiCommunicator::barrier(const char* name) {
  MPI_Request request;
  check_mpi(MPI_Ibarrier(comm_, &request), name);
  wait(request, name);
}

}  // namespace rekindle
