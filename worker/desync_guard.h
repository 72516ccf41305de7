// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <string>
#include <vector>

#include "comm/communicator.h"
#include "warmstart/named_state.h"

namespace rekindle {

// Finds ranks whose models have drifted apart, by a fault of memory or network or by a model that changes
// what is nobody's to change: every rank digests the tensors that it holds a copy of, XXH3 of their bytes.
// One pass over them and one small exchange where all is well. Parameters that ranks of a node share are
// digested once a node, and not at all where there is one node. Moments are not compared: each lies on one
// rank alone.
class DesyncGuard {
 public:
  // Collective, as is check(). `state` must outlive the guard.
  DesyncGuard(Communicator& communicator, const NamedState& state);

  // Throws AgreedError that names a tensor and the ranks whose bytes are not those of most.
  void check(int64_t step);

 private:
  [[noreturn]] void name_difference(const std::vector<uint64_t>& digests, int64_t step);

  Communicator& communicator_;
  const NamedState& state_;
  bool compares_parameters_;  // this rank's, with another's
};

}  // namespace rekindle
