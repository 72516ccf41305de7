// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

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
  // Operations that a rank may post before it waits for the first.
  static constexpr int kMostOutstanding = 512;

  struct Setting {
    std::chrono::milliseconds deadline;
    int crowd = 0;                // how many ranks this machine runs, of which these may be some; 0: these
    std::vector<int> names = {};  // what the ranks are called in errors; empty: 0, 1, ...
    int processors = 0;           // that the machine's ranks may use between them; 0: as many as this one may
    const SharedGroup* parent = nullptr;  // an abort there ends waits here too; it outlives this object
  };

  static size_t bytes_for(int world);
  SharedGroup(std::byte* memory, int rank, int world, Setting setting);
  SharedGroup(const SharedGroup&) = delete;
  SharedGroup& operator=(const SharedGroup&) = delete;

  int rank() const { return rank_; }
  int world() const { return world_; }
  const Setting& setting() const { return setting_; }

  // What this rank does next: `kind` (a letter), element type, count, and where these elements begin: all
  // that must be the same on every rank. Returns the operation's number.
  uint64_t post(char kind, int type = 0, int64_t count = 0, int64_t begin = 0);

  // Whether every rank has posted that operation. Throws Error if one posted another in its place.
  bool complete(uint64_t operation) const;

  // Returns once it is complete. Throws Error with `name`, and with the ranks that are missing after the
  // deadline or the rank that gave up.
  void wait(uint64_t operation, const char* name);

  // Makes every wait of every rank end with an error that names this rank.
  void abort() noexcept;

 private:
  using Time = std::chrono::steady_clock::time_point;
  struct State;
  bool all_posted(uint64_t operation) const;
  void check_same(uint64_t operation) const;
  void check_aborted(const char* name) const;
  bool may_spin(Time now);
  void sleep_until_complete(uint64_t operation, const char* name);
  std::string called(int rank) const;
  [[noreturn]] void miss_deadline(uint64_t operation, const char* name) const;

  State* state_;
  int rank_, world_;
  Setting setting_;
  std::chrono::microseconds spin_;
  Time watched_since_{}, rest_until_{};
  int64_t preemptions_ = 0;  // of this thread, at watched_since_
};

}  // namespace rekindle
