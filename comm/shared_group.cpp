// SPDX-License-Identifier: Apache-2.0
#include "comm/shared_group.h"

#include <linux/futex.h>
#include <sched.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <climits>
#include <cstring>
#include <utility>
#include <vector>

#include "core/error.h"
#include "core/text.h"

namespace rekindle {
namespace {

using Clock = std::chrono::steady_clock;

// A rank may run ahead by kMostOutstanding, so its older signatures must stay readable for as long.
constexpr int kSignatures = 2 * SharedGroup::kMostOutstanding;
constexpr int kNameWords = 6;

struct alignas(64) RankState {
  std::atomic<uint64_t> posted;                        // number of its latest operation
  alignas(64) std::atomic<uint64_t> name[kNameWords];  // of the wait that it sleeps in, for the post-mortem
  struct {
    std::atomic<uint64_t> what, begin;
  } signature[kSignatures];
};

uint64_t signature_of(char kind, int type, int64_t count) {
  return static_cast<uint64_t>(static_cast<unsigned char>(kind)) << 56 |
         static_cast<uint64_t>(type & 0xff) << 48 | (static_cast<uint64_t>(count) & 0xffffffffffffULL);
}

std::string describe(uint64_t signature, uint64_t begin) {
  return std::string("'") + static_cast<char>(signature >> 56) + "' of " +
         std::to_string(signature & 0xffffffffffffULL) + " elements of type " +
         std::to_string(signature >> 48 & 0xff) + " from " + std::to_string(begin);
}

long futex(std::atomic<uint32_t>* word, int operation, uint32_t value, const timespec* timeout) {
  return syscall(SYS_futex, reinterpret_cast<uint32_t*>(word), operation, value, timeout, nullptr, 0);
}

int usable_cpus() {
  cpu_set_t set;
  CPU_ZERO(&set);
  return sched_getaffinity(0, sizeof set, &set) == 0 ? CPU_COUNT(&set) : 1;
}

int64_t preemptions_of_this_thread() {
  rusage usage;
  return getrusage(RUSAGE_THREAD, &usage) == 0 ? usage.ru_nivcsw : 0;
}

void relax() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

}  // namespace

struct SharedGroup::State {
  alignas(64) std::atomic<uint32_t> wake;  // the futex: changes whenever a sleeper should look again
  alignas(64) std::atomic<uint32_t> sleepers;
  std::atomic<int32_t> aborted_by;  // rank + 1, 0: nobody
  RankState ranks[];                // one a rank
};

size_t SharedGroup::bytes_for(int world) {
  return sizeof(State) + static_cast<size_t>(world) * sizeof(RankState);
}

SharedGroup::SharedGroup(std::byte* memory, int rank, int world, Setting setting)
    : state_(reinterpret_cast<State*>(memory)), rank_(rank), world_(world), setting_(std::move(setting)) {
  static_assert(std::atomic<uint64_t>::is_always_lock_free && std::atomic<uint32_t>::is_always_lock_free);
  // With a processor for every rank the others arrive soon and sleeping would cost more than it frees.
  // With fewer, spinning takes the processor from the very rank that is waited for.
  const int processors = setting_.processors > 0 ? setting_.processors : usable_cpus();
  spin_ = std::chrono::microseconds(std::max(world, setting_.crowd) <= processors ? 200 : 0);
}

uint64_t SharedGroup::post(char kind, int type, int64_t count, int64_t begin) {
  RankState& mine = state_->ranks[rank_];
  const uint64_t operation = mine.posted.load(std::memory_order_relaxed) + 1;
  auto& signature = mine.signature[operation % kSignatures];
  signature.what.store(signature_of(kind, type, count), std::memory_order_relaxed);
  signature.begin.store(static_cast<uint64_t>(begin), std::memory_order_relaxed);
  mine.posted.store(operation, std::memory_order_seq_cst);
  // Sequentially consistent on both sides: either this rank sees the sleeper, or the sleeper sees the post.
  // Whoever posts an operation last wakes those that wait for it; before that they would wake in vain.
  if (state_->sleepers.load(std::memory_order_seq_cst) > 0 && all_posted(operation)) {
    state_->wake.fetch_add(1, std::memory_order_seq_cst);
    futex(&state_->wake, FUTEX_WAKE, INT_MAX, nullptr);
  }
  return operation;
}

bool SharedGroup::all_posted(uint64_t operation) const {
  for (int rank = 0; rank < world_; ++rank) {
    if (state_->ranks[rank].posted.load(std::memory_order_seq_cst) < operation) return false;
  }
  return true;
}

void SharedGroup::check_same(uint64_t operation) const {
  const auto what = [&](int rank) {
    return state_->ranks[rank].signature[operation % kSignatures].what.load(std::memory_order_relaxed);
  };
  const auto begin = [&](int rank) {
    return state_->ranks[rank].signature[operation % kSignatures].begin.load(std::memory_order_relaxed);
  };
  for (int rank = 0; rank < world_; ++rank) {
    if (what(rank) == what(rank_) && begin(rank) == begin(rank_)) continue;
    throw Error("ranks disagree about what comes next: " + called(rank_) + " is at " +
                    describe(what(rank_), begin(rank_)) + ", " + called(rank) + " at " +
                    describe(what(rank), begin(rank)),
                {called(rank_), "every rank must make the same calls in the same order"});
  }
}

void SharedGroup::check_aborted(const char* name) const {
  if (setting_.parent != nullptr) setting_.parent->check_aborted(name);
  const int by = state_->aborted_by.load(std::memory_order_relaxed);
  if (by == 0 || by == rank_ + 1) return;
  throw Error(called(by - 1) + " failed while this rank waited in '" + name + "'",
              {called(rank_), "the cause is in the log of " + called(by - 1)});
}

bool SharedGroup::complete(uint64_t operation) const {
  if (!all_posted(operation)) return false;
  check_same(operation);
  return true;
}

void SharedGroup::wait(uint64_t operation, const char* name) {
  if (complete(operation)) return;
  const Time start = Clock::now();
  if (may_spin(start)) {
    do {
      for (int i = 0; i < 32; ++i) {
        if (complete(operation)) return;
        relax();
      }
    } while (Clock::now() < start + spin_);
  }
  sleep_until_complete(operation, name);
}

// Other programs may want the processors too. Then a rank that spins is preempted for milliseconds, most
// often when it has work to do; one that sleeps is let in as soon as it wakes. So a rank that is preempted
// often does not spin for a while.
bool SharedGroup::may_spin(Time now) {
  constexpr auto kWatch = std::chrono::milliseconds(20), kRest = std::chrono::milliseconds(100);
  if (spin_.count() == 0 || now < rest_until_) return false;
  const auto watched = now - watched_since_;
  if (watched < kWatch) return true;
  const int64_t before = std::exchange(preemptions_, preemptions_of_this_thread());
  watched_since_ = now;
  // More than three in a watch; a longer time says nothing about now. A few there always are: a rank that is
  // woken may be put on the processor of the one that wakes it.
  if (watched < 10 * kWatch && preemptions_ - before > 3 * (watched / kWatch)) {
    rest_until_ = now + kRest;
    return false;
  }
  return true;
}

void SharedGroup::sleep_until_complete(uint64_t operation, const char* name) {
  char text[kNameWords * sizeof(uint64_t)] = {};
  std::strncpy(text, name, sizeof text - 1);
  for (int i = 0; i < kNameWords; ++i) {
    uint64_t word;
    std::memcpy(&word, text + i * sizeof word, sizeof word);
    state_->ranks[rank_].name[i].store(word, std::memory_order_relaxed);
  }
  const auto end = Clock::now() + setting_.deadline;
  // The timeout of one sleep bounds how late an abort is noticed; a post wakes at once.
  const timespec at_most{0, 20'000'000};
  while (true) {
    state_->sleepers.fetch_add(1, std::memory_order_seq_cst);
    const uint32_t seen = state_->wake.load(std::memory_order_seq_cst);
    const bool posted = all_posted(operation);
    if (!posted) futex(&state_->wake, FUTEX_WAIT, seen, &at_most);
    state_->sleepers.fetch_sub(1, std::memory_order_seq_cst);
    if (complete(operation)) return;
    check_aborted(name);
    if (Clock::now() >= end) miss_deadline(operation, name);
  }
}

std::string SharedGroup::called(int rank) const {
  return "rank " + std::to_string(setting_.names.empty() ? rank : setting_.names[rank]);
}

void SharedGroup::miss_deadline(uint64_t operation, const char* name) const {
  std::vector<std::string> missing;
  for (int rank = 0; rank < world_; ++rank) {
    const RankState& other = state_->ranks[rank];
    if (other.posted.load(std::memory_order_seq_cst) >= operation) continue;
    char text[kNameWords * sizeof(uint64_t) + 1] = {};
    for (int i = 0; i < kNameWords; ++i) {
      const uint64_t word = other.name[i].load(std::memory_order_relaxed);
      std::memcpy(text + i * sizeof word, &word, sizeof word);
    }
    missing.push_back(called(rank) + (*text ? std::string(" (last slept in '") + text + "')" : ""));
  }
  throw Error("'" + std::string(name) + "' was not reached within " +
                  std::to_string(setting_.deadline.count() / 1000.0) + " s by " + enumerate(missing),
              {called(rank_), "a worker hangs or is stopped; run.deadline sets how long to wait"});
}

void SharedGroup::abort() noexcept {
  int32_t nobody = 0;
  state_->aborted_by.compare_exchange_strong(nobody, rank_ + 1);
  state_->wake.fetch_add(1, std::memory_order_seq_cst);
  futex(&state_->wake, FUTEX_WAKE, INT_MAX, nullptr);
}

}  // namespace rekindle
