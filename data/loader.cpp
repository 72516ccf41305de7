// SPDX-License-Identifier: Apache-2.0
#include "data/loader.h"

#include <algorithm>
#include <span>
#include <string>
#include <utility>

#include "core/error.h"
#include "data/gather.h"

namespace rekindle {
namespace {

Timeline checked_timeline(const std::vector<int64_t>& indices, const LoaderOptions& options,
                          int64_t start_samples) {
  const bool sound = options.global_batch > 0 && options.microbatch >= 0 && options.rank >= 0 &&
                     options.rank < options.world && start_samples >= 0 &&
                     options.virtual_workers >= options.world && options.least_samples > 0;
  if (!sound) throw Error("a loader's batch, micro-batch, cut, rank or start is out of range");
  return Timeline(static_cast<int64_t>(indices.size()), options.global_batch, options.ramp);
}

// Part `part` of `parts` even ones.
Range even_part(Range whole, int64_t part, int64_t parts) {
  return {whole.begin + whole.size() * part / parts, whole.begin + whole.size() * (part + 1) / parts};
}

}  // namespace

Range share_of(int64_t batch, int index, int count, int64_t least) {
  const int64_t working = std::clamp<int64_t>(batch / least, 1, count);
  return index < working ? even_part({0, batch}, index, working) : Range{batch, batch};
}

Loader::Loader(const Dataset& data, std::vector<int64_t> indices, const LoaderOptions& options,
               int64_t start_samples)
    : data_(data),
      indices_(std::move(indices)),
      options_(options),
      timeline_(checked_timeline(indices_, options_, start_samples)),
      next_samples_(start_samples) {
  if (options_.depth > 0) thread_ = std::thread([this] { produce(); });
}

Loader::~Loader() {
  if (!thread_.joinable()) return;
  {
    const std::lock_guard lock(mutex_);
    stop_ = true;
  }
  half_empty_.notify_one();
  thread_.join();
}

StepBatches Loader::next() {
  if (!thread_.joinable()) return build();
  std::unique_lock lock(mutex_);
  ready_.wait(lock, [this] { return !queue_.empty() || failure_; });
  if (queue_.empty()) std::rethrow_exception(failure_);
  StepBatches step = std::move(queue_.front());
  queue_.pop_front();
  const bool wake = queue_.size() == options_.depth / 2;
  lock.unlock();
  if (wake) half_empty_.notify_one();
  return step;
}

StepBatches Loader::build() {
  const int64_t samples = next_samples_;
  const int64_t epoch = timeline_.epoch_at(samples);
  const int64_t first = samples - epoch * timeline_.epoch_samples();  // position in the epoch
  StepBatches step;
  step.global_samples = timeline_.batch_at(samples);
  const SampleOrder order(options_.seed, epoch, timeline_.epoch_samples(), options_.shuffle);
  const Augmentation augmentation(options_.augment, options_.seed, epoch);
  const int count = options_.virtual_workers, rank = options_.rank, world = options_.world;
  for (int worker = count * rank / world; worker < count * (rank + 1) / world; ++worker) {
    const Range share = share_of(step.global_samples, worker, count, options_.least_samples);
    step.shares.push_back(cut(share, order, first, augmentation));
  }
  next_samples_ += step.global_samples;
  return step;
}

// The samples of one virtual worker, in passes.
std::vector<Batch> Loader::cut(Range share, const SampleOrder& order, int64_t first,
                               const Augmentation& augmentation) {
  std::vector<Batch> passes;
  const int64_t most = options_.microbatch > 0 ? options_.microbatch : std::max<int64_t>(share.size(), 1);
  const int64_t parts = (share.size() + most - 1) / most;
  for (int64_t part = 0; part < parts; ++part) {
    const Range range = even_part(share, part, parts);
    std::vector<int64_t> chosen;
    chosen.reserve(static_cast<size_t>(range.size()));
    for (int64_t i = range.begin; i < range.end; ++i) {
      chosen.push_back(indices_[static_cast<size_t>(order.at(first + i))]);
    }
    passes.push_back(gather(data_, chosen, options_.mean, options_.std, memory_,
                            options_.augment.any() ? &augmentation : nullptr));
  }
  return passes;
}

void Loader::produce() {
  try {
    produce_until_stopped();
  } catch (...) {
    const std::lock_guard lock(mutex_);
    failure_ = std::current_exception();
  }
  ready_.notify_one();
}

void Loader::produce_until_stopped() {
  for (;;) {
    StepBatches step = build();
    std::unique_lock lock(mutex_);
    queue_.push_back(std::move(step));
    if (queue_.size() == 1) ready_.notify_one();
    if (queue_.size() == options_.depth) {
      half_empty_.wait(lock, [this] { return stop_ || queue_.size() <= options_.depth / 2; });
    }
    if (stop_) return;
  }
}

}  // namespace rekindle
