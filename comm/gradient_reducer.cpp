// SPDX-License-Identifier: Apache-2.0
#include "comm/gradient_reducer.h"

#include <torch/csrc/autograd/function_hook.h>
#include <torch/csrc/autograd/variable.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <memory>

#include "comm/gradient_hook.h"
#include "comm/lending.h"
#include "comm/sum.h"
#include "core/error.h"
#include "core/squares.h"

namespace rekindle {
namespace {

// Whether the last two sums are the halves of a node of the tree.
bool ends_in_siblings(const std::vector<Subtree>& rows) {
  if (rows.size() < 2) return false;
  const Subtree left = rows[rows.size() - 2], right = rows.back();
  return left.size == right.size && left.begin % (2 * left.size) == 0;
}

void merge_last_two(std::vector<Subtree>& rows) {
  rows.pop_back();
  rows.back().size *= 2;
}

// ATen's own addition gives the same bits, in more time where tensors are small.
void add_to(at::Tensor& sum, const at::Tensor& gradient) {
  if (!sum.is_cpu() || !gradient.is_contiguous() || gradient.scalar_type() != at::kFloat) {
    sum.add_(gradient);
    return;
  }
  const std::array<const float*, 2> both{sum.const_data_ptr<float>(), gradient.const_data_ptr<float>()};
  rekindle::sum(sum.mutable_data_ptr<float>(), std::span<const float* const>(both), sum.numel());
}

double squares_of(const at::Tensor& gradient) {
  if (gradient.is_cpu() && gradient.is_contiguous() && gradient.scalar_type() == at::kFloat)
    return sum_of_squares(gradient.const_data_ptr<float>(), gradient.numel());
  return gradient.to(at::kDouble).square().sum().item<double>();
}

// The most rows that a rank has at a time.
int most_rows(const SumPlan& plan, int rank, bool several_passes) {
  size_t most = 1;
  std::vector<Subtree> rows;
  for (int leaf = plan.first_leaf(rank); leaf < plan.first_leaf(rank + 1); ++leaf) {
    rows.push_back({leaf, 1});
    const bool adds = ends_in_siblings(rows) && !several_passes;
    most = std::max(most, rows.size() - adds);
    while (ends_in_siblings(rows)) merge_last_two(rows);
  }
  return static_cast<int>(most);
}

}  // namespace

GradientReducer::GradientReducer(Communicator& communicator, const FlatParameters& parameters,
                                 const SumPlan& plan, const ReducerOptions& options)
    : communicator_(communicator),
      parameters_(parameters),
      plan_(plan),
      measures_passes_(options.measures_passes) {
  lend_to_layers();
  const FlatLayout& layout = parameters.layout();
  if (layout.size() == 0)
    throw Error("there is nothing to train: the model's parameters are frozen or empty");
  int rows = 1;  // the same on every rank: memory is made together
  for (int rank = 0; rank < plan.world(); ++rank) {
    rows = std::max(rows, most_rows(plan, rank, options.several_passes));
  }
  parts_ = communicator.allocate(rows * layout.size(), at::kFloat).view({rows, layout.size()});
  for (int row = 0; row < rows; ++row) {
    places_.emplace_back();
    for (const FlatLayout::Entry& entry : layout.entries()) {
      const at::Tensor stretch = parts_.select(0, row).narrow(0, entry.range.begin, entry.range.size());
      places_.back().push_back(stretch.view(entry.shape));
    }
  }
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
    parameter.mutable_grad().reset();  // which a model's constructor may have left
    torch::autograd::impl::set_post_acc_grad_hooks(parameter, std::make_unique<GradientHook>(*this, i));
  }
}

GradientReducer::~GradientReducer() {
  for (const auto& [name, parameter] : parameters_.parameters()) {
    torch::autograd::impl::set_post_acc_grad_hooks(parameter, nullptr);
  }
}

void GradientReducer::start_step() {
  next_bucket_ = 0;
  copied_ = 0;
  leaf_ = plan_.first_leaf(communicator_.rank()) - 1;
  passes_ = 0;
  rows_.clear();
  used_.assign(bucket_of_.size(), false);
  missing_ = bucket_size_;
}

void GradientReducer::start_leaf(int passes) {
  if (leaf_ >= plan_.first_leaf(communicator_.rank())) end_leaf();
  ++leaf_;
  passes_ = passes;
  seen_.assign(bucket_of_.size(), 0);
  lent_.assign(bucket_of_.size(), false);
  rows_.push_back({leaf_, 1});
  // A gradient that comes whole is added to its sibling's right away; otherwise it is collected apart first,
  // for the sum of its passes is to be rounded on its own.
  adds_ = passes <= 1 && ends_in_siblings(rows_);
  row_ = static_cast<int>(rows_.size()) - 1 - adds_;
  while (ends_in_siblings(rows_)) merge_last_two(rows_);
  last_row_ = static_cast<int>(rows_.size()) - 1;
  if (row_ >= parts_.size(0)) throw Error("a leaf takes several passes, which the reducer was not made for");
}

at::Tensor GradientReducer::lend(size_t parameter) {
  if (adds_ || passes_ == 0 || seen_[parameter] != 0 || lent_[parameter]) return {};
  lent_[parameter] = true;
  // Another tensor over the same memory: autograd takes over only what nobody else holds.
  return places_[row_][parameter].detach();
}

void GradientReducer::add(size_t parameter, const at::Tensor& gradient) {
  const auto refuse = [&](const char* what, const char* hint) {
    throw Error("parameter '" + parameters_.parameters()[parameter].first + "' has " + what, {"", hint});
  };
  if (gradient.layout() != at::kStrided) refuse("a sparse gradient", "make its layer with sparse = false");
  if (seen_[parameter] == passes_)
    refuse("a second gradient in one pass", "a model's loss() may not call backward() itself");
  if (measures_passes_) pass_squares_ += squares_of(gradient);
  at::Tensor& mine = places_[row_][parameter];
  if (seen_[parameter] > 0 || adds_) {
    add_to(mine, gradient);
  } else if (gradient.const_data_ptr() != mine.const_data_ptr()) {  // else it was written to what was lent
    mine.copy_(gradient);
    ++copied_;
  }
  used_[parameter] = true;
  if (++seen_[parameter] == passes_) end_parameter(parameter);
}

// A parameter that a leaf does not use has a gradient of zeros there.
void GradientReducer::add_nothing(size_t parameter) {
  at::Tensor& row = places_[row_][parameter];
  // To add zero is not to do nothing: it makes 0 of -0, as the sum with another rank's zeros does.
  adds_ ? row.add_(0) : row.zero_();
}

// All that this leaf gives for the parameter is there.
void GradientReducer::end_parameter(size_t parameter) {
  for (int row = row_; row > last_row_; --row) {
    add_to(places_[row - 1][parameter], places_[row][parameter]);
  }
  const bool last_leaf = leaf_ + 1 == plan_.first_leaf(communicator_.rank() + 1);
  if (last_leaf && --missing_[bucket_of_[parameter]] == 0) hand_in_ready();
}

void GradientReducer::end_leaf() {
  for (size_t i = 0; i < seen_.size(); ++i) {
    if (passes_ > 0 && seen_[i] == passes_) continue;
    if (seen_[i] == 0) add_nothing(i);
    end_parameter(i);
  }
}

void GradientReducer::hand_in_ready() {
  for (; next_bucket_ < buckets_.size() && missing_[next_bucket_] == 0; ++next_bucket_) {
    communicator_.reduce_scatter(parts_, buckets_[next_bucket_], plan_, squares_);
  }
}

void GradientReducer::end_passes() {
  end_leaf();
}

GradientReducer::Result GradientReducer::finish() {
  communicator_.join("gradient sum");
  for (const Range& bucket : buckets_) {
    communicator_.all_gather(squares_, {bucket.begin / kBlock, bucket.end / kBlock}, 1);
  }
  communicator_.join("gradient norm");
  double total = 0;
  const at::Tensor here = squares_.to(at::kCPU);
  const double* squares = here.const_data_ptr<double>();
  for (int64_t block = 0; block < parameters_.layout().blocks(); ++block) total += squares[block];
  return {total};
}

}  // namespace rekindle
