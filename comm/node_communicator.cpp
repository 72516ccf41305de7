// SPDX-License-Identifier: Apache-2.0
#include "comm/node_communicator.h"

#include <ATen/ops/from_blob.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <cstring>
#include <string>
#include <utility>

#include "comm/combine.h"
#include "comm/sum.h"
#include "core/error.h"
#include "core/squares.h"

namespace rekindle {
namespace {

constexpr size_t kStaging = 256 << 10;  // bytes of one buffer: fits the second-level cache
constexpr int64_t kLine = 64;           // elements: shares begin at cache lines, whatever the type

int type_of(const at::Tensor& tensor) {
  return static_cast<int>(tensor.scalar_type());
}

void check(const at::Tensor& tensor, const char* name) {
  if (!tensor.is_contiguous() || !tensor.device().is_cpu()) {
    throw Error(std::string("'") + name + "' needs a contiguous tensor on the CPU");
  }
}

Reduction reduction_of(Communicator::Op op) {
  return op == Communicator::Op::kSum ? Reduction::kSum : Reduction::kMax;
}

// The ids of allocations are this far apart, so that an offset in bytes can be added.
constexpr int64_t kIdStride = int64_t{1} << 44;

}  // namespace

Element element_of(const at::Tensor& tensor, const char* name) {
  switch (tensor.scalar_type()) {
    case at::kFloat:
      return Element::kFloat32;
    case at::kDouble:
      return Element::kFloat64;
    case at::kBFloat16:
      return Element::kBfloat16;
    case at::kHalf:
      return Element::kFloat16;
    case at::kLong:
      return Element::kInt64;
    case at::kByte:
      return Element::kUint8;
    default:
      throw Error(std::string("'") + name + "': elements of type " + at::toString(tensor.scalar_type()) +
                  " are not reduced");
  }
}

std::vector<int> members_of_group(Communicator& communicator, int group) {
  at::Tensor groups = at::zeros({communicator.world()}, at::kLong);
  auto* of = groups.data_ptr<int64_t>();
  of[communicator.rank()] = group;
  communicator.all_reduce(groups, Communicator::Op::kSum, "split");
  std::vector<int> members;
  for (int r = 0; r < communicator.world(); ++r) {
    if (of[r] == group) members.push_back(r);
  }
  return members;
}

void NodeCommunicator::meet(std::byte* group_memory, SharedGroup::Setting setting) {
  group_ = std::make_unique<SharedGroup>(group_memory, rank(), world(), std::move(setting));
  staging_ = map_region(2 * kStaging, false);
}

at::Tensor NodeCommunicator::allocate_region(int64_t numel, at::ScalarType dtype, bool one_for_all) {
  // An empty tensor gets an address of its own too, so that find() can tell it from others.
  const size_t bytes = std::max<size_t>(static_cast<size_t>(numel) * at::elementSize(dtype), 64);
  group_->wait(group_->post('A', static_cast<int>(dtype), numel),
               "allocate");  // before anyone maps another size
  const int64_t id = static_cast<int64_t>(allocations_.size()) * kIdStride;
  allocations_.push_back({map_region(bytes, one_for_all), bytes, one_for_all, id});
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

NodeCommunicator::Place NodeCommunicator::place_of(const at::Tensor& tensor, const char* name) const {
  check(tensor, name);
  const Allocation* allocation = find(tensor);
  if (allocation == nullptr) {
    throw Error(std::string("'") + name + "' takes memory from allocate() or allocate_shared()");
  }
  const ptrdiff_t offset =
      static_cast<const std::byte*>(tensor.const_data_ptr()) - allocation->region[rank()];
  Place place{{}, allocation->one_for_all, allocation->id + offset};
  for (std::byte* region : allocation->region) place.address.push_back(region + offset);
  return place;
}

std::byte* NodeCommunicator::staging(int rank, uint64_t use) const {
  return staging_[rank] + use % 2 * kStaging;
}

void NodeCommunicator::all_reduce(at::Tensor tensor, Op op, const char* name) {
  check(tensor, name);
  const Element element = element_of(tensor, name);
  const Allocation* allocation = find(tensor);
  if (allocation != nullptr && !allocation->one_for_all) {
    reduce_in_place(tensor, element, op, *allocation, name);
  } else {
    reduce_staged(tensor, element, op, name);
  }
}

// Each rank combines its share where it lies and writes it to every rank's memory, in one pass: what is
// written was just read, so it is in the cache.
void NodeCommunicator::reduce_in_place(const at::Tensor& tensor, Element element, Op op,
                                       const Allocation& allocation, const char* name) {
  const ptrdiff_t offset = static_cast<std::byte*>(tensor.data_ptr()) - allocation.region[rank()];
  const int64_t size = size_of(element), count = tensor.numel();
  const auto cut = [&](int r) { return r == world() ? count : count * r / world() / kLine * kLine; };
  std::vector<std::byte*> shares;
  for (std::byte* region : allocation.region) shares.push_back(region + offset + cut(rank()) * size);

  group_->wait(group_->post('R', type_of(tensor), count, allocation.id + offset), name);
  const std::vector<const std::byte*> sources(shares.begin(), shares.end());
  combine(element, reduction_of(op), sources, shares, cut(rank() + 1) - cut(rank()));
  group_->wait(group_->post('r'), name);
}

// A rank may write the buffer of use k once all have read that of use k - 2: they have, when they posted use
// k - 1.
void NodeCommunicator::reduce_staged(at::Tensor& tensor, Element element, Op op, const char* name) {
  auto* at = static_cast<std::byte*>(tensor.data_ptr());
  const int64_t size = size_of(element), chunk = static_cast<int64_t>(kStaging) / size;
  std::vector<const std::byte*> sources(world());
  for (int64_t begin = 0; begin < std::max<int64_t>(tensor.numel(), 1); begin += chunk) {
    const int64_t count = std::min(chunk, tensor.numel() - begin);
    const uint64_t use = staged_++;
    if (count > 0) std::memcpy(staging(rank(), use), at + begin * size, count * size);
    group_->wait(group_->post('S', type_of(tensor), count), name);
    for (int r = 0; r < world(); ++r) sources[r] = staging(r, use);
    std::byte* const result = at + begin * size;
    combine(element, reduction_of(op), sources, {&result, 1}, count);
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
  const uint64_t operation = group_->post('G', type_of(parts), range.size(), allocation->id + range.begin);
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

void NodeCommunicator::reduce_slice(const Reducing& reducing) {
  const auto row = [&](int r, size_t part) {
    return reinterpret_cast<float*>(reducing.allocation->region[r]) +
           static_cast<int64_t>(part) * reducing.row;
  };
  std::vector<const float*> rows;
  for (int r = 0; r < world(); ++r) {
    for (size_t part = 0; part < reducing.plan->parts(r).size(); ++part) rows.push_back(row(r, part));
  }
  std::vector<const float*> sources(rows.size());
  for (int64_t at = reducing.slice.begin; at < reducing.slice.end; at += kBlock) {
    for (size_t s = 0; s < rows.size(); ++s) sources[s] = rows[s] + at;
    float* mine = row(rank(), 0) + at;
    sum(mine, std::span<const float* const>(sources), reducing.plan->order(), kBlock);
    reducing.squares[at / kBlock] = sum_of_squares(mine, kBlock);  // while the block is still in the cache
  }
}

void NodeCommunicator::all_gather(at::Tensor tensor, Range range, int64_t unit) {
  check(tensor, "all_gather");
  const Allocation* allocation = find(tensor);
  if (allocation == nullptr) throw Error("all_gather takes memory from allocate() or allocate_shared()");
  if (gatherings_.size() >= SharedGroup::kMostOutstanding / 2) join("all_gather");
  const uint64_t operation = group_->post('P', type_of(tensor), range.size(), allocation->id + range.begin);
  gatherings_.push_back({operation, allocation, tensor, range, unit});
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
    group_->wait(group_->post('B', type_of(tensor), tensor.numel(), root), name);
    const size_t offset = at - allocation->region[rank()];
    if (rank() != root) std::memcpy(at, allocation->region[root] + offset, bytes);
    return barrier(name);
  }
  for (size_t begin = 0; begin < std::max<size_t>(bytes, 1); begin += kStaging) {
    const size_t count = std::min(kStaging, bytes - begin);
    const uint64_t use = staged_++;
    if (rank() == root && count > 0) std::memcpy(staging(root, use), at + begin, count);
    group_->wait(group_->post('b', type_of(tensor), static_cast<int64_t>(count), root), name);
    if (rank() != root && count > 0) std::memcpy(at + begin, staging(root, use), count);
  }
}

std::unique_ptr<NodeCommunicator> NodeCommunicator::split_node(int group) {
  const std::vector<int> members = members_of_group(*this, group);
  const auto me = std::find(members.begin(), members.end(), rank());
  return split_off(members, static_cast<int>(me - members.begin()));
}

SharedGroup::Setting NodeCommunicator::setting_of(const std::vector<int>& members) const {
  SharedGroup::Setting setting = group_->setting();
  std::vector<int> names;
  for (const int member : members) names.push_back(setting.names.empty() ? member : setting.names[member]);
  setting.names = std::move(names);
  setting.crowd = std::max(setting.crowd, world());
  setting.parent = group_.get();
  return setting;
}

void NodeCommunicator::barrier(const char* name) {
  group_->wait(group_->post('='), name);
}

}  // namespace rekindle
