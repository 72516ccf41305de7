// SPDX-License-Identifier: Apache-2.0
#include "core/progress.h"

#include <algorithm>
#include <cmath>

#include "core/error.h"

namespace rekindle {

namespace {

// 1.1 epochs of 50,000 samples are 55,000, and not a hair more: that would be another step.
double whole_where_meant(double samples) {
  const double whole = std::round(samples);
  return std::abs(samples - whole) <= 1e-9 * std::abs(whole) ? whole : samples;
}

}  // namespace

Timeline::Timeline(int64_t epoch_samples, int64_t global_batch, const BatchRamp& ramp)
    : epoch_samples_(epoch_samples), global_batch_(global_batch), ramp_(ramp) {
  if (epoch_samples < 1)
    throw bad_input("there is no sample to train on", "", "check the data and the held-out shares");
  if (global_batch < 1) throw bad_input("the global batch must hold at least one sample", "batch.global");
  steps_per_epoch_ = (epoch_samples + global_batch - 1) / global_batch;
  if (ramp.samples <= 0) return;
  constexpr double kMostSteps = 1e7;
  if (ramp.start < 1 || ramp.samples / static_cast<double>(ramp.start) > kMostSteps)
    throw bad_input("the batch would grow over more than ten million steps", "batch.ramp", "shorten it");
  while (static_cast<double>(ramp_end_) < ramp.samples) {
    ramp_starts_.push_back(ramp_end_);
    ramp_end_ += batch_at(ramp_end_);
  }
  rest_samples_ = (epoch_samples - ramp_end_ % epoch_samples) % epoch_samples;
  rest_steps_ = (rest_samples_ + global_batch - 1) / global_batch;
}

int64_t Timeline::samples_after(int64_t steps) const {
  if (steps < ramp_steps()) return ramp_starts_[static_cast<size_t>(steps)];
  steps -= ramp_steps();
  if (steps < rest_steps_) return ramp_end_ + steps * global_batch_;
  steps -= rest_steps_;
  const int64_t epochs = steps / steps_per_epoch_, rest = steps % steps_per_epoch_;
  return ramp_end_ + rest_samples_ + epochs * epoch_samples_ + rest * global_batch_;
}

int64_t Timeline::steps_at(int64_t samples) const {
  if (samples < ramp_end_)
    return std::upper_bound(ramp_starts_.begin(), ramp_starts_.end(), samples) - ramp_starts_.begin() - 1;
  samples -= ramp_end_;
  if (samples < rest_samples_) return ramp_steps() + samples / global_batch_;
  samples -= rest_samples_;
  const int64_t epochs = samples / epoch_samples_, rest = samples % epoch_samples_;
  return ramp_steps() + rest_steps_ + epochs * steps_per_epoch_ + rest / global_batch_;
}

int64_t Timeline::batch_at(int64_t samples) const {
  int64_t batch = global_batch_;
  if (static_cast<double>(samples) < ramp_.samples) {
    const double done = static_cast<double>(samples) / ramp_.samples;
    const auto grown = static_cast<int64_t>(done * static_cast<double>(global_batch_ - ramp_.start));
    batch = ramp_.start + grown / ramp_.start * ramp_.start;
  }
  return std::min(batch, epoch_samples_ - samples % epoch_samples_);
}

double Timeline::samples_in(const Length& length, double run_samples) const {
  switch (length.unit) {
    case Unit::kSamples:
      return length.value;
    case Unit::kEpochs:
      return whole_where_meant(length.value * static_cast<double>(epoch_samples_));
    case Unit::kShare:
      return whole_where_meant(length.value * run_samples);
    case Unit::kBatches: {  // the last batch of an epoch is smaller, so steps are not a multiple of samples
      const auto whole = static_cast<int64_t>(length.value);
      const double begun = length.value - static_cast<double>(whole);
      const int64_t samples = samples_after(whole);
      return static_cast<double>(samples) + begun * static_cast<double>(batch_at(samples));
    }
    case Unit::kSeconds:
      throw bad_input("a time has no number of samples", to_string(length));
    case Unit::kTokens:
      throw bad_input("lengths in tokens are not in this version", to_string(length));
  }
  return 0;
}

}  // namespace rekindle
