// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <condition_variable>
#include <cstdint>
#include <deque>
#include <exception>
#include <mutex>
#include <thread>
#include <vector>

#include "core/batch.h"
#include "core/flat_layout.h"
#include "core/progress.h"
#include "data/augment.h"
#include "data/batch_memory.h"
#include "data/dataset.h"
#include "data/sample_order.h"

namespace rekindle {

struct LoaderOptions {
  uint64_t seed = 1;
  bool shuffle = true;  // false: the order of the indices, every epoch
  int rank = 0, world = 1;
  int64_t global_batch = 0;   // samples of a step over all ranks
  BatchRamp ramp{};           // up to there
  int virtual_workers = 1;    // parts that it is cut in, `world` at least
  int64_t least_samples = 1;  // of a virtual worker that has any
  int64_t microbatch = 0;     // most samples in one forward pass; 0: a virtual worker's whole share
  double mean = 0, std = 1;   // as gather() takes them
  AugmentOptions augment{};
  size_t depth = 8;  // most steps that are kept ready; 0: next() builds its own, without a thread
};

// What one rank computes in one step: for each of its virtual workers, in order, batches of about equal size;
// none where a short last batch has nothing for it.
struct StepBatches {
  std::vector<std::vector<Batch>> shares;
  int64_t global_samples = 0;  // of all ranks together
};

// The samples of a step, [0, batch), that are the share of virtual worker `index` of `count`: contiguous, as
// even as can be, `least` or none. Where the batch is too short for all, the last ones have none.
Range share_of(int64_t batch, int index, int count, int64_t least);

// Hands out one rank's part of each step's global batch, step after step and epoch after epoch, without end.
// The samples of a step, their order and their cut among the virtual workers do not depend on the world: rank
// r has the r-th of `world` even, contiguous ranges of these.
//
// But for `depth` 0, a thread of its own builds batches ahead, into a queue. It sleeps when the queue is
// full, until half of it is used: where ranks and loaders share few cores, waking it for every step would
// cost more than the work it does.
class Loader {
 public:
  // `indices` are the samples to train on, `start_samples` how many all ranks together have seen, in steps of
  // whatever size. `data` must outlive the loader. Throws bad_input where there are no indices, Error for
  // arguments that make no sense.
  Loader(const Dataset& data, std::vector<int64_t> indices, const LoaderOptions& options,
         int64_t start_samples = 0);
  ~Loader();  // stops the thread after the step it is building
  Loader(const Loader&) = delete;
  Loader& operator=(const Loader&) = delete;

  // For one thread. Waits for the step where it is not ready; throws what went wrong while it was built.
  StepBatches next();

 private:
  StepBatches build();  // the next step's
  std::vector<Batch> cut(Range share, const SampleOrder& order, int64_t first,
                         const Augmentation& augmentation);
  void produce();
  void produce_until_stopped();

  const Dataset& data_;
  const std::vector<int64_t> indices_;
  const LoaderOptions options_;
  const Timeline timeline_;
  BatchMemory memory_;
  int64_t next_samples_;  // before the step to be built next

  std::mutex mutex_;  // guards what follows
  std::condition_variable ready_, half_empty_;
  std::deque<StepBatches> queue_;
  std::exception_ptr failure_;  // the last thing in the queue, so to speak
  bool stop_ = false;
  std::thread thread_;
};

}  // namespace rekindle
