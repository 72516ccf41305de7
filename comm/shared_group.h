// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <string>

namespace rekindle {

// How ranks that share memory meet. Every rank posts the same sequence of operations; an operation is
// complete once all ranks have posted it. That one primitive carries barriers, flags of ready buckets and all
// the rest.
//
// The state lies in memory that all ranks have mapped: zeroed, at least bytes_for(world) long. A waiting rank
// spins for a moment, then sleeps on a futex in that memory. Each rank's object is used by one thread at a
// time.
class SharedGroup {
 public:
  static constexpr int kMostOutstanding =
      512;  // operations that a rank may post before it waits for the first

  static size_t bytes_for(int world);
  SharedGroup(std::byte* memory, int rank, int world, std::chrono::milliseconds deadline);
  SharedGroup(const SharedGroup&) = delete;
  SharedGroup& operator=(const SharedGroup&) = delete;

  int rank() const { return rank_; }
  int world() const { return world_; }

  // What this rank does next: `kind` (a letter), element type and count. Returns the operation's number.
  uint64_t post(char kind, int type = 0, int64_t count = 0);

  // Whether every rank has posted that operation. Throws Error if one posted another in its place.
  bool complete(uint64_t operation) const;

  // Returns once it is complete. Throws Error with `name`, and with the ranks that are missing after the
  // deadline or the rank that gave up.
  void wait(uint64_t operation, const char* name);

  // Makes every wait of every rank end with an error that names this rank.
  void abort() noexcept;

 private:
  struct State;
  bool all_posted(uint64_t operation) const;
  void check_same(uint64_t operation) const;
  void check_aborted(const char* name) const;
  void sleep_until_complete(uint64_t operation, const char* name);
  [[noreturn]] void miss_deadline(uint64_t operation, const char* name) const;

  State* state_;
  int rank_, world_;
  std::chrono::milliseconds deadline_;
  std::chrono::microseconds spin_;
};

}  // namespace rekindle
