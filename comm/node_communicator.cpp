// SPDX-License-Identifier: Apache-2.0
#include "comm/node_communicator.h"

#include <ATen/ops/from_blob.h>

#include <algorithm>
#include <cstring>
#include <string>

#include "comm/sum.h"
#include "core/error.h"

namespace rekindle {
namespace {

constexpr size_t kStaging = 256 << 10;  // bytes of one buffer: fits the second-level cache

int type_of(const at::Tensor& tensor) {
  return static_cast<int>(tensor.scalar_type());
}

void check(const at::Tensor& tensor, const char* name) {
  if (!tensor.is_contiguous() || !tensor.device().is_cpu()) {
    throw Error(std::string("'") + name + "' needs a contiguous tensor on the CPU");
  }
}

template <typename T>
void combine(const std::vector<const std::byte*>& sources, std::byte* out, int64_t count,
             Communicator::Op op) {
  std::vector<const T*> typed;
  for (const std::byte* source : sources) typed.push_back(reinterpret_cast<const T*>(source));
  T* result = reinterpret_cast<T*>(out);
  if (op == Communicator::Op::kSum) return sum(result, std::span<const T* const>(typed), count);
  for (int64_t i = 0; i < count; ++i) {
    T most = typed[0][i];
    for (size_t s = 1; s < typed.size(); ++s) most = std::max(most, typed[s][i]);
    result[i] = most;
  }
}

void combine(at::ScalarType dtype, const std::vector<const std::byte*>& sources, std::byte* out,
             int64_t count, Communicator::Op op, const char* name) {
  switch (dtype) {
    case at::kFloat:
      return combine<float>(sources, out, count, op);
    case at::kDouble:
      return combine<double>(sources, out, count, op);
    case at::kLong:
      return combine<int64_t>(sources, out, count, op);
    case at::kByte:
      return combine<uint8_t>(sources, out, count, op);
    default:
      throw Error(std::string("'") + name + "': elements of type " + at::toString(dtype) +
                  " are not reduced");
  }
}

}  // namespace

void NodeCommunicator::meet(std::byte* group_memory, std::chrono::milliseconds deadline) {
  group_ = std::make_unique<SharedGroup>(group_memory, rank(), world(), deadline);
  staging_ = map_region(2 * kStaging, false);
}

at::Tensor NodeCommunicator::allocate_region(int64_t numel, at::ScalarType dtype, bool one_for_all) {
  // An empty tensor gets an address of its own too, so that find() can tell it from others.
  const size_t bytes = std::max<size_t>(static_cast<size_t>(numel) * at::elementSize(dtype), 64);
  group_->wait(group_->post('A', static_cast<int>(dtype), numel),
               "allocate");  // before anyone maps another size
  allocations_.push_back({map_region(bytes, one_for_all), bytes, one_for_all});
  return at::from_blob(allocations_.back().region[rank()], {numel}, at::TensorOptions().dtype(dtype));
}

at::Tensor NodeCommunicator::allocate(int64_t numel, at::ScalarType dtype) {
  return allocate_region(numel, dtype, false);
}

at::Tensor NodeCommunicator::allocate_shared(int64_t numel, at::ScalarType dtype) {
  return allocate_region(numel, dtype, true);
}

const NodeCommunicator::Allocation* NodeCommunicator::find(const at::Tensor& tensor) const {
  const auto* at = static_cast<const std::byte*>(tensor.const_data_ptr());
  for (const Allocation& allocation : allocations_) {
    const std::byte* mine = allocation.region[rank()];
    if (at >= mine && at < mine + allocation.bytes) return &allocation;
  }
  return nullptr;
}

std::byte* NodeCommunicator::staging(int rank, uint64_t use) const {
  return staging_[rank] + use % 2 * kStaging;
}

void NodeCommunicator::all_reduce(at::Tensor tensor, Op op, const char* name) {
  check(tensor, name);
  const Allocation* allocation = find(tensor);
  if (allocation == nullptr || allocation->one_for_all || tensor.nbytes() <= kStaging) {
    return reduce_staged(tensor, op, name);
  }
  // Large and where all can read it: each rank combines its share in place, then fetches the others'.
  const size_t offset = static_cast<std::byte*>(tensor.data_ptr()) - allocation->region[rank()];
  const int64_t size = tensor.element_size(), count = tensor.numel();
  const auto cut = [&](int r) { return count * r / world(); };
  const auto address = [&](int owner, int64_t element) {
    return allocation->region[owner] + offset + element * size;
  };

  group_->wait(group_->post('R', type_of(tensor), count), name);
  std::vector<const std::byte*> sources;
  for (int r = 0; r < world(); ++r) sources.push_back(address(r, cut(rank())));
  combine(tensor.scalar_type(), sources, address(rank(), cut(rank())), cut(rank() + 1) - cut(rank()), op,
          name);
  group_->wait(group_->post('r'), name);
  for (int r = 0; r < world(); ++r) {
    if (r != rank()) std::memcpy(address(rank(), cut(r)), address(r, cut(r)), (cut(r + 1) - cut(r)) * size);
  }
  barrier(name);  // nobody writes what another still fetches
}

// A rank may write the buffer of use k once all have read that of use k - 2: they have, when they posted use
// k - 1.
void NodeCommunicator::reduce_staged(at::Tensor& tensor, Op op, const char* name) {
  auto* at = static_cast<std::byte*>(tensor.data_ptr());
  const int64_t size = tensor.element_size(), chunk = static_cast<int64_t>(kStaging) / size;
  std::vector<const std::byte*> sources(world());
  for (int64_t begin = 0; begin < std::max<int64_t>(tensor.numel(), 1); begin += chunk) {
    const int64_t count = std::min(chunk, tensor.numel() - begin);
    const uint64_t use = staged_++;
    std::memcpy(staging(rank(), use), at + begin * size, count * size);
    group_->wait(group_->post('S', type_of(tensor), count), name);
    for (int r = 0; r < world(); ++r) sources[r] = staging(r, use);
    combine(tensor.scalar_type(), sources, at + begin * size, count, op, name);
  }
}

void NodeCommunicator::reduce_scatter(at::Tensor parts, Range range, const SumPlan& plan,
                                      at::Tensor squares) {
  const Allocation* allocation = find(parts);
  if (allocation == nullptr || allocation->one_for_all || parts.scalar_type() != at::kFloat) {
    throw Error("reduce_scatter takes float32 memory from allocate()");
  }
  if (reductions_.size() >= SharedGroup::kMostOutstanding / 2) {
    group_->wait(reductions_.front().operation, "reduce_scatter");
    progress();
  }
  const uint64_t operation = group_->post('G', type_of(parts), range.size());
  reductions_.push_back({operation, allocation, parts.size(1), FlatLayout::slice(range, rank(), world()),
                         &plan, squares.data_ptr<double>()});
  progress();
}

// Sums what every rank has handed in by now. Called while backward goes on, so that summing overlaps with it.
void NodeCommunicator::progress() {
  while (!reductions_.empty() && group_->complete(reductions_.front().operation)) {
    reduce_slice(reductions_.front());
    reductions_.pop_front();
  }
}

void NodeCommunicator::reduce_slice(const Reduction& reduction) {
  const auto row = [&](int r, size_t part) {
    return reinterpret_cast<float*>(reduction.allocation->region[r]) +
           static_cast<int64_t>(part) * reduction.row;
  };
  std::vector<const float*> rows;
  for (int r = 0; r < world(); ++r) {
    for (size_t part = 0; part < reduction.plan->parts(r).size(); ++part) rows.push_back(row(r, part));
  }
  std::vector<const float*> sources(rows.size());
  for (int64_t at = reduction.slice.begin; at < reduction.slice.end; at += kBlock) {
    for (size_t s = 0; s < rows.size(); ++s) sources[s] = rows[s] + at;
    float* mine = row(rank(), 0) + at;
    sum(mine, std::span<const float* const>(sources), reduction.plan->order(), kBlock);
    reduction.squares[at / kBlock] = sum_of_squares(mine, kBlock);  // while the block is still in the cache
  }
}

void NodeCommunicator::all_gather(at::Tensor tensor, Range range, int64_t unit) {
  check(tensor, "all_gather");
  const Allocation* allocation = find(tensor);
  if (allocation == nullptr) throw Error("all_gather takes memory from allocate() or allocate_shared()");
  if (gatherings_.size() >= SharedGroup::kMostOutstanding / 2) join("all_gather");
  gatherings_.push_back({group_->post('P', type_of(tensor), range.size()), allocation, tensor, range, unit});
}

// Copies the others' slices to here, where they are not here already.
void NodeCommunicator::fetch(const Gathering& gathering) {
  const int64_t size = gathering.tensor.element_size();
  const auto* base = gathering.allocation->region[rank()];
  auto* at = static_cast<std::byte*>(gathering.tensor.data_ptr());
  for (int r = 0; r < world(); ++r) {
    const Range slice = FlatLayout::slice(gathering.range, r, world(), gathering.unit);
    if (r == rank() || slice.empty()) continue;
    const std::byte* theirs = gathering.allocation->region[r] + (at - base);
    std::memcpy(at + slice.begin * size, theirs + slice.begin * size, slice.size() * size);
  }
}

void NodeCommunicator::join(const char* name) {
  while (!reductions_.empty()) {
    group_->wait(reductions_.front().operation, name);
    progress();
  }
  if (gatherings_.empty()) return;
  bool copied = false;
  group_->wait(gatherings_.back().operation, name);  // and with it those before
  for (const Gathering& gathering : gatherings_) {
    if (gathering.allocation->one_for_all) continue;
    fetch(gathering);
    copied = true;
  }
  gatherings_.clear();
  if (copied) barrier(name);  // nobody writes what another still fetches
}

void NodeCommunicator::broadcast(at::Tensor tensor, int root, const char* name) {
  check(tensor, name);
  const Allocation* allocation = find(tensor);
  if (allocation != nullptr && allocation->one_for_all) return barrier(name);  // written once, seen by all
  auto* at = static_cast<std::byte*>(tensor.data_ptr());
  const size_t bytes = tensor.nbytes();
  if (allocation != nullptr) {
    group_->wait(group_->post('B', type_of(tensor), tensor.numel()), name);
    const size_t offset = at - allocation->region[rank()];
    if (rank() != root) std::memcpy(at, allocation->region[root] + offset, bytes);
    return barrier(name);
  }
  for (size_t begin = 0; begin < std::max<size_t>(bytes, 1); begin += kStaging) {
    const size_t count = std::min(kStaging, bytes - begin);
    const uint64_t use = staged_++;
    if (rank() == root) std::memcpy(staging(root, use), at + begin, count);
    group_->wait(group_->post('b', type_of(tensor), static_cast<int64_t>(count)), name);
    if (rank() != root) std::memcpy(at + begin, staging(root, use), count);
  }
}

void NodeCommunicator::barrier(const char* name) {
  group_->wait(group_->post('='), name);
}

}  // namespace rekindle
