// SPDX-License-Identifier: Apache-2.0
#include "worker/snapshot.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>

#include <algorithm>

namespace rekindle {
namespace {

std::vector<Range> segments_of(const Optimizer& optimizer) {
  std::vector<Range> segments;
  for (const Optimizer::Segment& segment : optimizer.segments()) segments.push_back(segment.range);
  return segments;
}

NamedState zeros_like(const NamedState& state) {
  NamedState zeros;
  const auto add = [](const NamedState::Tensors& from, NamedState::Tensors& to) {
    for (const auto& [name, tensor] : from)
      to.emplace_back(name, at::zeros(tensor.sizes(), at::TensorOptions(tensor.scalar_type())));
  };
  add(state.parameters, zeros.parameters);
  add(state.frozen, zeros.frozen);
  add(state.buffers, zeros.buffers);
  return zeros;
}

void copy(const NamedState::Tensors& from, const NamedState::Tensors& to) {
  for (size_t i = 0; i < to.size(); ++i) to[i].second.copy_(from[i].second.detach());
}

}  // namespace

Snapshot::Part Snapshot::empty_part(int rank, std::vector<Range> segments, size_t moments) {
  Part part{rank, std::move(segments), {}};
  for (const Range& segment : part.segments) {
    part.moments.emplace_back();
    for (size_t m = 0; m < moments; ++m)
      part.moments.back().push_back(at::zeros({segment.size()}, at::kFloat));  // touched
  }
  return part;
}

void Snapshot::add_gathered(const Run& run, const Optimizer& optimizer, const Owned& gathered) {
  if (!run.is_root()) return;
  for (size_t rank = 1; rank < gathered.size(); ++rank)
    parts_.push_back(empty_part(static_cast<int>(rank), gathered[rank], optimizer.moment_names().size()));
}

Snapshot Snapshot::room_for(const Run& run, const Optimizer& optimizer, const Owned& gathered) {
  Snapshot room;
  room.parts_.push_back(
      empty_part(run.communicator.rank(), segments_of(optimizer), optimizer.moment_names().size()));
  if (run.is_root()) room.weights_ = zeros_like(run.state);
  room.add_gathered(run, optimizer, gathered);
  return room;
}

Snapshot Snapshot::view_of(const Run& run, const Optimizer& optimizer, const Owned& gathered) {
  Snapshot view;
  Part mine{run.communicator.rank(), segments_of(optimizer), {}};
  for (const Optimizer::Segment& segment : optimizer.segments()) {
    mine.moments.emplace_back();
    for (const at::Tensor& moment : segment.moments) mine.moments.back().push_back(moment.to(at::kCPU));
  }
  view.parts_.push_back(std::move(mine));
  if (run.is_root()) view.weights_ = on_host(run.state);
  view.add_gathered(run, optimizer, gathered);
  return view;
}

void Snapshot::copy_from(const Run& run, const Optimizer& optimizer) {
  copy(run.state.parameters, weights_.parameters);
  copy(run.state.frozen, weights_.frozen);
  copy(run.state.buffers, weights_.buffers);
  const Part& mine = parts_.front();
  for (size_t s = 0; s < mine.moments.size(); ++s) {
    for (size_t m = 0; m < mine.moments[s].size(); ++m)
      mine.moments[s][m].copy_(optimizer.segments()[s].moments[m]);
  }
}

void Snapshot::gather(Communicator& host, const Optimizer& optimizer, const Owned& owned) {
  constexpr int64_t kChunk = 1 << 20;
  const at::Tensor passing = at::empty({kChunk}, at::kFloat);  // what is on its way to rank 0, elsewhere
  for (int from = 1; from < host.world(); ++from) {
    const Part* const here = host.rank() == 0 ? &parts_[from] : host.rank() == from ? &parts_[0] : nullptr;
    for (size_t s = 0; s < owned[from].size(); ++s) {
      const int64_t length = owned[from][s].size();
      for (size_t m = 0; m < optimizer.moment_names().size(); ++m) {
        for (int64_t begin = 0; begin < length; begin += kChunk) {
          const int64_t count = std::min(kChunk, length - begin);
          host.broadcast(here ? here->moments[s][m].narrow(0, begin, count) : passing.narrow(0, 0, count),
                         from, "gathering of the moments");
        }
      }
    }
  }
}

}  // namespace rekindle
