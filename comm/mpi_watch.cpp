// SPDX-License-Identifier: Apache-2.0
#include "comm/mpi_watch.h"

#include <cstdlib>
#include <utility>

#include "core/error.h"
#include "core/log.h"

namespace rekindle {

MpiWatch::MpiWatch(int rank, std::string name, std::chrono::milliseconds deadline)
    : thread_([this, rank, name = std::move(name), deadline] {
        std::unique_lock lock(mutex_);
        if (over_.wait_for(lock, deadline, [this] { return is_over_; })) return;
        const Error error(
            "'" + name + "' was not reached within " + std::to_string(deadline.count() / 1000.0) +
                " s by all other ranks",
            {"rank " + std::to_string(rank),
             "the one that is missing has said less than the others, or nothing; run.deadline sets "
             "how long to wait"});
        log_error("rank " + std::to_string(rank) + " failed: " + error.what());
        std::_Exit(static_cast<int>(error.code()));
      }) {}

MpiWatch::~MpiWatch() {
  {
    const std::lock_guard lock(mutex_);
    is_over_ = true;
  }
  over_.notify_one();
  thread_.join();
}

}  // namespace rekindle
