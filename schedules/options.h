// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "core/units.h"

namespace rekindle {

// How the rate follows the global batch, B = kB' for a base batch B'.
enum class LrScaling {
  kNone,
  kLinear,    // k (Goyal et al. 2017)
  kSqrt,      // sqrt(k) (You et al. 2019, 2020)
  kAdamSqrt,  // sqrt(k), and Adam's betas and eps with it (Malladi et al. 2022)
};

// Where the warm-up's length comes from.
enum class WarmupRule {
  kLength,   // it is given
  kUntuned,  // Adam's beta2 says it (Ma & Yarats 2021)
  kRadam,    // the rate follows RAdam's rectification (Liu et al. 2020)
};
enum class WarmupShape { kLinear, kExponential, kCosine, kConstant };
enum class WarmupFixedIn {
  kSamples,  // of a larger batch the warm-up has fewer steps (Goyal et al. 2017)
  kSteps,    // it has as many, so its epochs grow with the batch (LEGW, You et al. 2019)
};

// What ends a warm-up before its length does.
enum class WarmupUntil { kLength, kTrainingLoss, kValidationLoss, kValidationAccuracy, kNoiseScale };

enum class Decay {
  kConstant,
  kCosine,
  kLinear,
  kPolynomial,
  kStep,
  kExponential,
  kInverseSqrt,
  kWsd,
  kOneCycle,
  kPlateau
};
enum class CooldownShape { kLinear, kCosine, k1Sqrt };
enum class DecayMetric { kLoss, kAccuracy };  // of the validation data

// `[schedule]`: warm-up, then decay, and how the rate follows the global batch.
struct ScheduleOptions {
  double base_lr = 0;      // required
  int64_t base_batch = 0;  // the batch base_lr was tuned at; needed where something scales with the batch
  LrScaling lr_scaling = LrScaling::kNone;

  Length warmup;  // none by default
  WarmupRule warmup_rule = WarmupRule::kLength;
  WarmupShape warmup_shape = WarmupShape::kLinear;
  double warmup_start_factor = 0;         // share of the peak
  std::optional<double> warmup_start_lr;  // instead of it
  WarmupFixedIn warmup_fixed_in = WarmupFixedIn::kSamples;
  bool long_warmup = false;  // it may take more than half of the run
  WarmupUntil warmup_until = WarmupUntil::kLength;
  std::optional<double> warmup_bound;     // it ends when the measure gets there; or
  int64_t warmup_patience = 0;            // when it gets no better for so many looks; 0: however long
  Length warmup_min;                      // but not before
  std::optional<double> warmup_momentum;  // where momentum (Adam's beta1) starts

  Decay decay = Decay::kConstant;
  double min_lr_factor = 0;      // share of the peak, under which no decay goes
  double decay_power = 1;        // polynomial
  double decay_factor = 0.1;     // step, exponential, plateau; PyTorch's gamma
  Length decay_every;            // step, exponential
  std::vector<Length> decay_at;  // step: counted from the beginning of the run
  int64_t cycles = 1;            // cosine
  Length timescale;              // inverse-sqrt; the warm-up where it is not given
  Length cooldown;               // wsd
  CooldownShape cooldown_shape = CooldownShape::kLinear;
  Length settle;             // wsd: of the fall from the peak to where the rate stays
  double stable_factor = 1;  // wsd: share of the peak where it stays

  // plateau; PyTorch's defaults
  DecayMetric decay_metric = DecayMetric::kLoss;
  int64_t decay_patience = 10;    // evaluations without a gain that are borne
  double decay_threshold = 1e-4;  // a gain is more than this share
  int64_t decay_cooldown = 0;     // evaluations after a fall that do not count
};

}  // namespace rekindle
