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

Timeline::Timeline(int64_t epoch_samples, int64_t global_batch)
    : epoch_samples_(epoch_samples), global_batch_(global_batch) {
  if (epoch_samples < 1)
    throw bad_input("there is no sample to train on", "", "check the data and the held-out shares");
  if (global_batch < 1) throw bad_input("the global batch must hold at least one sample", "batch.global");
  steps_per_epoch_ = (epoch_samples + global_batch - 1) / global_batch;
}

int64_t Timeline::samples_after(int64_t steps) const {
  const int64_t epochs = steps / steps_per_epoch_, rest = steps % steps_per_epoch_;
  return epochs * epoch_samples_ + rest * global_batch_;
}

int64_t Timeline::steps_at(int64_t samples) const {
  const int64_t epochs = samples / epoch_samples_, rest = samples % epoch_samples_;
  return epochs * steps_per_epoch_ + rest / global_batch_;
}

int64_t Timeline::batch_at(int64_t samples) const {
  return std::min(global_batch_, epoch_samples_ - samples % epoch_samples_);
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
