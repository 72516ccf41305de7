// SPDX-License-Identifier: Apache-2.0
#include "worker/stop_signal.h"

#include <atomic>
#include <csignal>

namespace rekindle {
namespace {

std::atomic<bool> requested{false};  // a signal handler has nowhere else to write
static_assert(std::atomic<bool>::is_always_lock_free);

}  // namespace

void catch_stop_signals() {
  struct sigaction action {};
  action.sa_handler = [](int) { requested.store(true, std::memory_order_relaxed); };
  action.sa_flags = SA_RESTART;
  for (const int signal : {SIGUSR2, SIGTERM, SIGINT}) sigaction(signal, &action, nullptr);
}

bool stop_requested() {
  return requested.load(std::memory_order_relaxed);
}

}  // namespace rekindle
