// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "comm/sum_plan.h"
#include "core/flat_layout.h"

namespace rekindle {

// One group of ranks. Every call but rank(), world() and abort() is collective: all ranks make the same calls
// in the same order, from one thread each. Every wait has a deadline and a name; a missed one throws Error.
// The destructor does not communicate. Tensors that allocate() and allocate_shared() return live no longer
// than the communicator.
class Communicator {
 public:
  enum class Op { kSum, kMax };

  virtual ~Communicator() = default;
  Communicator(const Communicator&) = delete;
  Communicator& operator=(const Communicator&) = delete;

  int rank() const { return rank_; }
  int world() const { return world_; }

  // Where the memory lies that allocate() gives, and that the model is to be on.
  virtual at::Device device() const { return at::kCPU; }

  // What the ranks compute and exchange with, for the record; empty on the CPU.
  virtual std::string device_name() const { return {}; }

  // The same ranks with memory of the CPU: this one, unless its memory is a GPU's. join() here is for both.
  virtual Communicator& host() { return *this; }

  // Zeroed memory of this rank, [numel], that the calls below reduce fastest, where it lies.
  virtual at::Tensor allocate(int64_t numel, at::ScalarType dtype) = 0;

  // Zeroed memory, [numel], that holds the same values on every rank by contract: one physical copy a node
  // where that can be. A rank writes only what it owns, and all_gather() makes it seen; to write it whole is
  // for the ranks where fills_shared() is true, one for each copy.
  virtual at::Tensor allocate_shared(int64_t numel, at::ScalarType dtype) = 0;
  virtual bool fills_shared() const = 0;

  // `tensor` becomes the sum (or maximum) over ranks of the same tensor: the same bits everywhere. Contiguous
  // float32, float64, bfloat16 and float16 (added in float32), int64 or uint8 (the last: sum only).
  virtual void all_reduce(at::Tensor tensor, Op op, const char* name) = 0;

  // Starts summing `parts[:, range]` over the parts of all ranks as `plan` has it; a rank's own are the first
  // rows, in order. `range` is cut into one slice a rank (FlatLayout::slice): once join() returns,
  // `parts[0][slice]` of this rank's slice holds the sum, and `squares[block]` the sum of its squares in each
  // block of the slice. All else in range is undefined then. `parts` is [rows, n] float32 from allocate(); it
  // may be written again after the next all_gather or barrier. `plan` is kept until join().
  virtual void reduce_scatter(at::Tensor parts, Range range, const SumPlan& plan, at::Tensor squares) = 0;

  // Starts giving every rank the others' slices of `tensor[range]`, cut at multiples of `unit` elements;
  // complete once join() returns. `tensor` comes from allocate_shared() or allocate().
  virtual void all_gather(at::Tensor tensor, Range range, int64_t unit) = 0;

  // Waits for all that was started; `name` is that of the wait. On a GPU it is the current stream that waits.
  virtual void join(const char* name) = 0;

  // Every rank gets rank `root`'s values.
  virtual void broadcast(at::Tensor tensor, int root, const char* name) = 0;
  virtual void barrier(const char* name) = 0;

  // A communicator of the ranks that give the same `group`, 0 or more, in their order here. It lives no
  // longer than this one.
  virtual std::unique_ptr<Communicator> split(int group);

  // Before a good end, once its memory is out of use: gives back what the destructor cannot.
  virtual void close() {}

  // Makes the other ranks' waits end with an error that names this one. Not collective.
  virtual void abort() noexcept = 0;

 protected:
  Communicator(int rank, int world) : rank_(rank), world_(world) {}

 private:
  int rank_, world_;
};

// Texts of any length, by the calls above.
std::vector<std::string> all_gather_text(Communicator& communicator, const std::string& text,
                                         const char* name);
void broadcast_text(Communicator& communicator, std::string& text, int root, const char* name);

// Throws AgreedError, on every rank, that names the first one whose `text` is not rank 0's.
void check_same(Communicator& communicator, const std::string& text, const char* what, const char* hint);

// Runs `part`, which does not communicate, on every rank, or on rank `only` alone, and agrees on how it went:
// if it threw anywhere, every rank throws the same AgreedError, that of the lowest rank it failed on. So a
// failure on one rank leaves no other one waiting.
void together(Communicator& communicator, const char* name, const std::function<void()>& part, int only = -1);

}  // namespace rekindle
