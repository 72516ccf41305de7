// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <chrono>
#include <condition_variable>
#include <mutex>
#include <string>
#include <thread>

namespace rekindle {

// Watches over calls that wait inside MPI for the other ranks, where nobody else can: the start, and memory
// that is shared out. Where they outlive the deadline it names this rank and what it waits for, and ends the
// process; mpirun then ends the others. One thread, for as long as the object lives.
class MpiWatch {
 public:
  MpiWatch(int rank, std::string name, std::chrono::milliseconds deadline);
  ~MpiWatch();
  MpiWatch(const MpiWatch&) = delete;
  MpiWatch& operator=(const MpiWatch&) = delete;

 private:
  std::mutex mutex_;
  std::condition_variable over_;
  bool is_over_ = false;
  std::thread thread_;
};

}  // namespace rekindle
