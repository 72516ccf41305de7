// SPDX-License-Identifier: Apache-2.0
#include "comm/nccl_watch.h"

#include <algorithm>
#include <utility>

namespace rekindle {

NcclWatch::NcclWatch(const NcclFunctions& functions, int rank, std::chrono::milliseconds deadline, Look look,
                     Lost lost)
    : functions_(functions),
      rank_(rank),
      deadline_(deadline),
      look_(std::move(look)),
      lost_(std::move(lost)),
      thread_([this] { run(); }) {}

NcclWatch::~NcclWatch() {
  {
    const std::lock_guard lock(mutex_);
    stop_ = true;
  }
  changed_.notify_all();
  thread_.join();
  for (const Wait& wait : waits_) functions_.destroy_event(wait.event);
  for (GpuEvent event : done_) functions_.destroy_event(event);
}

void NcclWatch::add(GpuEvent event, const char* name) {
  const std::lock_guard lock(mutex_);
  waits_.push_back({event, name, Clock::now()});
}

std::optional<GpuEvent> NcclWatch::take_done() {
  const std::lock_guard lock(mutex_);
  if (done_.empty()) return std::nullopt;
  const GpuEvent event = done_.back();
  done_.pop_back();
  return event;
}

std::optional<Error> NcclWatch::failure() const {
  const std::lock_guard lock(mutex_);
  return failure_;
}

std::string NcclWatch::outstanding() const {
  const std::lock_guard lock(mutex_);
  std::string names;
  for (const Wait& wait : waits_) names += (names.empty() ? "'" : ", '") + wait.name + "'";
  return names;
}

// Events come in the order in which they were recorded, for they are of one stream.
std::optional<Error> NcclWatch::look_at_events() {
  const std::lock_guard lock(mutex_);
  while (!waits_.empty()) {
    const Wait& wait = waits_.front();
    const int result = functions_.query_event(wait.event);
    if (result == kGpuSuccess) {
      done_.push_back(wait.event);
      waits_.pop_front();
      continue;
    }
    const std::string where = "rank " + std::to_string(rank_);
    if (result != kGpuNotReady) {
      return Error("'" + wait.name + "' failed on the GPU: " + functions_.gpu_error_string(result),
                   {where, ""});
    }
    if (Clock::now() - wait.since > deadline_) {
      return Error(
          "'" + wait.name + "' did not end on the GPU within " + std::to_string(deadline_.count() / 1000.0) +
              " s",
          {where, "another worker hangs, is gone or did something else; run.deadline sets how long to wait"});
    }
    break;
  }
  return std::nullopt;
}

void NcclWatch::run() {
  // Often enough to end soon after a deadline, rarely enough to cost nothing.
  const auto pause = std::clamp(deadline_ / 20, std::chrono::milliseconds(1), std::chrono::milliseconds(100));
  functions_.set_device();
  std::unique_lock lock(mutex_);
  while (!stop_) {
    lock.unlock();
    std::optional<Error> failure = look_();
    if (!failure) failure = look_at_events();
    lock.lock();
    if (failure) {
      failure_ = failure;
      lock.unlock();
      return lost_(*failure);
    }
    changed_.wait_for(lock, pause, [this] { return stop_; });
  }
}

}  // namespace rekindle
