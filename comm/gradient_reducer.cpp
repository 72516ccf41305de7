// SPDX-License-Identifier: Apache-2.0
#include "comm/gradient_reducer.h"

#include <torch/csrc/autograd/function_hook.h>
#include <torch/csrc/autograd/variable.h>

#include <cstring>
#include <memory>

#include "core/error.h"

namespace rekindle {

// Runs on the thread that called backward, right after a parameter's gradient was accumulated.
class GradientReducer::Hook : public torch::autograd::PostAccumulateGradHook {
 public:
  Hook(GradientReducer& reducer, size_t parameter) : reducer_(reducer), parameter_(parameter) {}
  void operator()(const torch::autograd::Variable& variable) override {
    at::Tensor& gradient = variable.mutable_grad();
    reducer_.add(parameter_, gradient);
    // Undefined again, so that the next backward hands its tensor over instead of adding into this one.
    gradient.reset();
  }

 private:
  GradientReducer& reducer_;
  size_t parameter_;
};

GradientReducer::GradientReducer(Communicator& communicator, const FlatParameters& parameters,
                                 const ReducerOptions& options)
    : communicator_(communicator), parameters_(parameters) {
  const FlatLayout& layout = parameters.layout();
  flat_ = communicator.allocate(layout.size(), at::kFloat);
  squares_ = communicator.allocate_shared(layout.blocks(), at::kDouble);
  buckets_ = layout.buckets(options.first_bucket_bytes, options.bucket_bytes, sizeof(float));
  bucket_size_.assign(buckets_.size(), 0);
  for (const Range& bucket : buckets_) {
    slices_.push_back(FlatLayout::slice(bucket, communicator.rank(), communicator.world()));
  }
  for (const FlatLayout::Entry& entry : layout.entries()) {
    size_t bucket = 0;
    while (entry.range.begin < buckets_[bucket].begin) ++bucket;
    bucket_of_.push_back(bucket);
    ++bucket_size_[bucket];
  }
  for (size_t i = 0; i < parameters.parameters().size(); ++i) {
    const at::Tensor& parameter = parameters.parameters()[i].second;
    torch::autograd::impl::set_post_acc_grad_hooks(parameter, std::make_unique<Hook>(*this, i));
  }
}

GradientReducer::~GradientReducer() {
  for (const auto& [name, parameter] : parameters_.parameters()) {
    torch::autograd::impl::set_post_acc_grad_hooks(parameter, nullptr);
  }
}

void GradientReducer::start_step(int passes) {
  passes_ = passes;
  next_bucket_ = 0;
  seen_.assign(bucket_of_.size(), 0);
  missing_ = bucket_size_;
}

void GradientReducer::add(size_t parameter, at::Tensor& gradient) {
  const Range range = parameters_.layout().entries()[parameter].range;
  if (seen_[parameter] == 0 && gradient.is_contiguous() && gradient.scalar_type() == at::kFloat) {
    std::memcpy(flat_.data_ptr<float>() + range.begin, gradient.const_data_ptr<float>(),
                range.size() * sizeof(float));
  } else {
    at::Tensor view = flat_.narrow(0, range.begin, range.size()).view(gradient.sizes());
    seen_[parameter] == 0 ? view.copy_(gradient) : view.add_(gradient);
  }
  if (++seen_[parameter] == passes_ && --missing_[bucket_of_[parameter]] == 0) hand_in_ready();
}

void GradientReducer::hand_in_ready() {
  for (; next_bucket_ < buckets_.size() && missing_[next_bucket_] == 0; ++next_bucket_) {
    communicator_.reduce_scatter(flat_, buckets_[next_bucket_], squares_);
  }
}

GradientReducer::Result GradientReducer::finish() {
  for (size_t i = 0; i < seen_.size(); ++i) {
    if (seen_[i] > 0) continue;
    const Range range = parameters_.layout().entries()[i].range;
    std::memset(flat_.data_ptr<float>() + range.begin, 0, range.size() * sizeof(float));
  }
  missing_.assign(missing_.size(), 0);
  hand_in_ready();
  communicator_.join();

  // Every slice's owner has its squares; in memory that is not shared they still have to be brought together.
  if (communicator_.shares_memory()) {
    communicator_.barrier("gradient norm");
  } else {
    for (size_t b = 0; b < buckets_.size(); ++b) {
      double* squares = squares_.data_ptr<double>();
      const Range mine{slices_[b].begin / kBlock, slices_[b].end / kBlock};
      for (int64_t i = buckets_[b].begin / kBlock; i < buckets_[b].end / kBlock; ++i) {
        if (i < mine.begin || i >= mine.end) squares[i] = 0;
      }
    }
    communicator_.all_reduce(squares_, Communicator::Op::kSum, "gradient norm");
  }
  double total = 0;
  const double* squares = squares_.const_data_ptr<double>();
  for (int64_t block = 0; block < parameters_.layout().blocks(); ++block) total += squares[block];
  return {total};
}

}  // namespace rekindle
