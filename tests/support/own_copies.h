// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "comm/communicator.h"

namespace rekindle {

// Makes ranks that share memory behave as ranks that do not: every one has a copy of its own of what is
// otherwise there once, so that what was not sent is not there. For tests on threads.
class OwnCopies : public Communicator {
 public:
  explicit OwnCopies(Communicator& inner) : Communicator(inner.rank(), inner.world()), inner_(inner) {}

  at::Tensor allocate(int64_t numel, at::ScalarType dtype) override { return inner_.allocate(numel, dtype); }
  at::Tensor allocate_shared(int64_t numel, at::ScalarType dtype) override {
    return inner_.allocate(numel, dtype);
  }
  bool fills_shared() const override { return true; }
  void all_reduce(at::Tensor tensor, Op op, const char* name) override {
    inner_.all_reduce(tensor, op, name);
  }
  void reduce_scatter(at::Tensor parts, Range range, const SumPlan& plan, at::Tensor squares) override {
    inner_.reduce_scatter(parts, range, plan, squares);
  }
  void all_gather(at::Tensor tensor, Range range, int64_t unit) override {
    inner_.all_gather(tensor, range, unit);
  }
  void join(const char* name) override { inner_.join(name); }
  void broadcast(at::Tensor tensor, int root, const char* name) override {
    inner_.broadcast(tensor, root, name);
  }
  void barrier(const char* name) override { inner_.barrier(name); }
  std::unique_ptr<Communicator> split(int group) override { return inner_.split(group); }
  void abort() noexcept override { inner_.abort(); }

 private:
  Communicator& inner_;
};

}  // namespace rekindle
