// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <functional>
#include <mutex>
#include <span>
#include <string>
#include <thread>
#include <vector>

#include "checkpoints/weight_files.h"
#include "core/digest.h"

namespace rekindle {

// Reads weights from front to back, each byte once: a thread of its own reads, while the caller takes the
// digest of what came before, and does with it whatever is to be done. Memory is bounded, whatever the
// caller's pace.
class WeightStream {
 public:
  enum class Use {
    kInPlace,  // the bytes go straight to where they belong
    kBuffer,   // the caller gets them in a buffer of the stream's
    kSkip,     // nobody reads them; then there is no digest
  };
  struct Place {
    Use use;
    std::byte* memory = nullptr;  // of kInPlace: as many bytes as the tensor has
  };
  struct Piece {
    size_t tensor;                     // in WeightFiles::tensors()
    uint64_t offset;                   // of its bytes
    std::span<const std::byte> bytes;  // valid until the next call of next()
    bool last;                         // of the tensor's
  };

  // `place` is asked once for each tensor. `weights` outlives this.
  WeightStream(const WeightFiles& weights, const std::function<Place(size_t)>& place);
  ~WeightStream();
  WeightStream(const WeightStream&) = delete;
  WeightStream& operator=(const WeightStream&) = delete;

  // All that next() will give, in order; their bytes have a length, but are not there yet.
  const std::vector<Piece>& pieces() const { return pieces_; }

  // The next piece; false at the end. Throws what a read threw.
  bool next(Piece& piece);

  // At the end, where nothing was skipped: the digests of the shards.
  std::vector<std::string> digests() const;

 private:
  static constexpr size_t kBuffers = 3;
  struct Task {  // one read
    const safetensors::Reader* reader;
    uint64_t at;  // in the file
    std::span<std::byte> into;
    bool buffered;
    bool header;  // what is before the tensors: for the digest alone
    Piece piece;
  };

  void plan(const WeightFiles& weights, const std::function<Place(size_t)>& place);
  void add(Task task, uint64_t bytes, std::byte* memory);
  void read_all();
  void wait_for_buffer(size_t task);

  std::vector<std::vector<std::byte>> buffers_;
  std::vector<Task> tasks_;
  std::vector<Piece> pieces_;
  std::vector<size_t> shard_ends_;  // in tasks_
  std::vector<std::string> digests_;
  std::unique_ptr<Digest> digest_;
  size_t taken_ = 0;  // by the caller

  std::mutex mutex_;
  std::condition_variable changed_;
  size_t read_ = 0;   // tasks that are done
  size_t freed_ = 0;  // tasks that the caller has done with
  bool stop_ = false;
  std::exception_ptr failure_;
  std::thread thread_;
};

}  // namespace rekindle
