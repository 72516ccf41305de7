// SPDX-License-Identifier: Apache-2.0
#include "worker/update.h"

namespace rekindle {

void update_together(Communicator& communicator, const FlatParameters& parameters,
                     const std::vector<Range>& buckets, Optimizer& optimizer) {
  if (optimizer.looks_at_norms()) {
    optimizer.measure();
    communicator.host().all_reduce(optimizer.squares(), Communicator::Op::kSum, "norms of the parameters");
  }
  for (size_t bucket = buckets.size(); bucket-- > 0;) {  // in the order of the next forward pass
    optimizer.update(bucket);
    communicator.all_gather(parameters.flat(), buckets[bucket], kBlock);
  }
  communicator.join("updated parameters");
}

}  // namespace rekindle
