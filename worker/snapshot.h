// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <ATen/core/Tensor.h>

#include <vector>

#include "core/flat_layout.h"
#include "optimizers/optimizer.h"
#include "warmstart/named_state.h"
#include "worker/run.h"

namespace rekindle {

// What one rank writes of a run's state: the state itself, or a copy of it in memory that was touched
// beforehand.
class Snapshot {
 public:
  // The moments that one rank owns.
  struct Part {
    int rank;
    std::vector<Range> segments;                   // of the flat line
    std::vector<std::vector<at::Tensor>> moments;  // [segment][moment], on the CPU
  };

  // Whose moments this rank writes: its own, or where rank 0 gathers, there those of all.
  using Owned = std::vector<std::vector<Range>>;  // by rank

  Snapshot() = default;

  // Memory for a copy. `gathered` is empty, or what each rank owns where rank 0 gathers.
  static Snapshot room_for(const Run& run, const Optimizer& optimizer, const Owned& gathered);

  // The state itself, but for what lies on a GPU or comes from other ranks.
  static Snapshot view_of(const Run& run, const Optimizer& optimizer, const Owned& gathered);

  bool empty() const { return parts_.empty(); }

  // Into the memory of room_for(). No rank updates what another still copies: an update comes after an
  // agreement of all.
  void copy_from(const Run& run, const Optimizer& optimizer);

  // Collective: rank 0 gets the moments of the others.
  void gather(Communicator& host, const Optimizer& optimizer, const Owned& owned);

  const NamedState& weights() const { return weights_; }     // on rank 0
  const std::vector<Part>& parts() const { return parts_; }  // its own first

 private:
  static Part empty_part(int rank, std::vector<Range> segments, size_t moments);
  void add_gathered(const Run& run, const Optimizer& optimizer, const Owned& gathered);

  NamedState weights_;
  std::vector<Part> parts_;
};

}  // namespace rekindle
