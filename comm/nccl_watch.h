// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <chrono>
#include <condition_variable>
#include <deque>
#include <functional>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "comm/nccl_functions.h"
#include "core/error.h"

namespace rekindle {

// Waits that the GPU does while the host goes on. If one does not end, the host would learn of it only by
// hanging in its next copy from the GPU, where no deadline reaches: so a thread looks at their events, and at
// what NCCL has to report, and says once that this rank is lost.
class NcclWatch {
 public:
  using Look = std::function<std::optional<Error>()>;  // what else there is to report; from the thread
  using Lost = std::function<void(const Error&)>;      // from the thread

  // `functions` must outlive it.
  NcclWatch(const NcclFunctions& functions, int rank, std::chrono::milliseconds deadline, Look look,
            Lost lost);
  ~NcclWatch();
  NcclWatch(const NcclWatch&) = delete;
  NcclWatch& operator=(const NcclWatch&) = delete;

  // Looks at `event`, which was recorded, until it has come.
  void add(GpuEvent event, const char* name);

  // An event that has come and may be recorded again; none where there is none.
  std::optional<GpuEvent> take_done();

  std::optional<Error> failure() const;  // what was said
  std::string outstanding() const;       // the names of the waits, for people

 private:
  using Clock = std::chrono::steady_clock;
  struct Wait {
    GpuEvent event;
    std::string name;
    Clock::time_point since;
  };

  void run();
  std::optional<Error> look_at_events();

  const NcclFunctions& functions_;
  int rank_;
  std::chrono::milliseconds deadline_;
  Look look_;
  Lost lost_;

  mutable std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<Wait> waits_;
  std::vector<GpuEvent> done_;
  std::optional<Error> failure_;
  bool stop_ = false;
  std::thread thread_;  // the last: it uses all of the above
};

}  // namespace rekindle
