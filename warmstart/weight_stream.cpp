// SPDX-License-Identifier: Apache-2.0
#include "warmstart/weight_stream.h"

#include <algorithm>

namespace rekindle {
namespace {

// Small enough to be in the cache still when its digest is taken, large enough that waking for it costs
// nothing.
constexpr uint64_t kChunk = 2 << 20;

}  // namespace

WeightStream::WeightStream(const WeightFiles& weights, const std::function<Place(size_t)>& place)
    : digest_(std::make_unique<Digest>()) {
  plan(weights, place);
  thread_ = std::thread([this] { read_all(); });
}

WeightStream::~WeightStream() {
  {
    const std::lock_guard lock(mutex_);
    stop_ = true;
  }
  changed_.notify_all();
  thread_.join();
}

void WeightStream::plan(const WeightFiles& weights, const std::function<Place(size_t)>& place) {
  const auto& tensors = weights.tensors();
  size_t tensor = 0;
  for (size_t shard = 0; shard < weights.shards().size(); ++shard) {
    const safetensors::Reader& reader = *weights.shards()[shard].reader;
    add({&reader, 0, {}, true, true, {}}, reader.header_bytes(), nullptr);
    for (; tensor < tensors.size() && tensors[tensor].shard == shard; ++tensor) {
      const safetensors::TensorInfo& info = *tensors[tensor].info;
      const Place where = place(tensor);
      if (where.use == Use::kSkip) continue;
      Task task{&reader, reader.header_bytes() + info.begin, {}, where.use == Use::kBuffer, false, {}};
      task.piece.tensor = tensor;
      add(task, info.bytes(), where.memory);
    }
    shard_ends_.push_back(tasks_.size());
  }
}

// Cuts a read into chunks. One of no bytes stays, as the caller waits for every tensor.
void WeightStream::add(Task task, uint64_t bytes, std::byte* memory) {
  for (uint64_t begin = 0; begin == 0 || begin < bytes; begin += kChunk) {
    const uint64_t count = std::min(kChunk, bytes - begin);
    if (task.buffered) {
      const size_t slot = tasks_.size() % kBuffers;
      if (buffers_.size() <= slot) buffers_.resize(slot + 1);
      if (buffers_[slot].size() < count) buffers_[slot].resize(count);
    }
    tasks_.push_back(task);
    Task& part = tasks_.back();
    part.at = task.at + begin;
    part.into = {memory == nullptr ? nullptr : memory + begin, count};
    part.piece.offset = begin;
    part.piece.last = begin + count == bytes;
    part.piece.bytes = part.into;
    if (!part.header) pieces_.push_back(part.piece);
  }
}

void WeightStream::read_all() {
  try {
    for (size_t i = 0; i < tasks_.size(); ++i) {
      Task& task = tasks_[i];
      if (task.buffered) {
        wait_for_buffer(i);
        task.into = std::span(buffers_[i % kBuffers]).first(task.into.size());
      }
      task.reader->read_raw(task.at, task.into);
      const std::lock_guard lock(mutex_);
      if (stop_) return;
      task.piece.bytes = task.into;
      read_ = i + 1;
      changed_.notify_all();
    }
  } catch (...) {
    const std::lock_guard lock(mutex_);
    failure_ = std::current_exception();
    changed_.notify_all();
  }
}

// Until the task that had the same buffer last is done with.
void WeightStream::wait_for_buffer(size_t task) {
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [&] { return stop_ || freed_ + kBuffers > task; });
}

bool WeightStream::next(Piece& piece) {
  for (;;) {
    const Task* task = nullptr;
    {
      std::unique_lock lock(mutex_);
      freed_ = taken_;
      changed_.notify_all();
      if (taken_ == tasks_.size()) return false;
      changed_.wait(lock, [&] { return failure_ || read_ > taken_; });
      if (read_ <= taken_) std::rethrow_exception(failure_);
      task = &tasks_[taken_++];
    }
    digest_->update(task->into);
    if (taken_ == shard_ends_[digests_.size()]) {
      digests_.push_back(digest_->hex());
      digest_ = std::make_unique<Digest>();
    }
    if (task->header) continue;
    piece = task->piece;
    return true;
  }
}

std::vector<std::string> WeightStream::digests() const {
  return digests_;
}

}  // namespace rekindle
