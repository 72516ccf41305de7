// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>

#include "comm/nccl_communicator.h"
#include "comm/thread_communicator.h"
#include "fake_nccl.h"

namespace rekindle {

// The communicator as the fake's caller uses it: before each call it says that the caller ran.
class OnFake : public Communicator {
 public:
  OnFake(Communicator& real, FakeNccl& fake, int rank)
      : Communicator(real.rank(), real.world()), real_(&real), fake_(fake), global_rank_(rank) {}
  OnFake(std::unique_ptr<Communicator> real, FakeNccl& fake, int rank) : OnFake(*real, fake, rank) {
    owned_ = std::move(real);
  }

  at::Tensor allocate(int64_t numel, at::ScalarType dtype) override { return use().allocate(numel, dtype); }
  at::Tensor allocate_shared(int64_t numel, at::ScalarType dtype) override {
    return use().allocate_shared(numel, dtype);
  }
  bool fills_shared() const override { return real_->fills_shared(); }
  void all_reduce(at::Tensor tensor, Op op, const char* name) override { use().all_reduce(tensor, op, name); }
  void reduce_scatter(at::Tensor parts, Range range, const SumPlan& plan, at::Tensor squares) override {
    use().reduce_scatter(parts, range, plan, squares);
  }
  void all_gather(at::Tensor tensor, Range range, int64_t unit) override {
    use().all_gather(tensor, range, unit);
  }
  void join(const char* name) override { use().join(name); }
  void broadcast(at::Tensor tensor, int root, const char* name) override {
    use().broadcast(tensor, root, name);
  }
  void barrier(const char* name) override { use().barrier(name); }
  std::unique_ptr<Communicator> split(int group) override {
    return std::make_unique<OnFake>(use().split(group), fake_, global_rank_);
  }
  void abort() noexcept override { real_->abort(); }

 private:
  Communicator& use() {
    fake_.caller_ran(global_rank_);
    return *real_;
  }

  Communicator* real_;
  FakeNccl& fake_;
  int global_rank_;
  std::unique_ptr<Communicator> owned_;
};

using OnRank = std::function<void(NcclCommunicator&, OnFake&)>;

// Runs `rank_main` on every rank, each with an NcclCommunicator on the fake; throws the first error.
inline void run_on_fake(FakeNccl& fake, int world, const CommOptions& options, const OnRank& rank_main) {
  run_as_threads(world, options, [&](Communicator& host) {
    const int rank = host.rank();
    const std::shared_ptr<Communicator> borrowed(&host, [](Communicator*) {});
    NcclCommunicator communicator(fake.functions(rank), borrowed, options,
                                  [&fake, rank](const Error& error) { fake.release(rank, error); });
    OnFake strict(communicator, fake, rank);
    rank_main(communicator, strict);
  });
}

// The same, with the error of each rank; no rank's error ends another's waits, as if it had just gone.
inline std::map<int, std::string> errors_on_fake(FakeNccl& fake, int world, const CommOptions& options,
                                                 const OnRank& rank_main) {
  std::map<int, std::string> errors;
  std::mutex mutex;
  run_as_threads(world, options, [&](Communicator& host) {
    const int rank = host.rank();
    const std::shared_ptr<Communicator> borrowed(&host, [](Communicator*) {});
    try {
      NcclCommunicator communicator(fake.functions(rank), borrowed, options,
                                    [&fake, rank](const Error& error) { fake.release(rank, error); });
      OnFake strict(communicator, fake, rank);
      rank_main(communicator, strict);
    } catch (const std::exception& error) {
      const std::lock_guard lock(mutex);
      errors[rank] = error.what();
    }
  });
  return errors;
}

}  // namespace rekindle
