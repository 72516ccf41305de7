// SPDX-License-Identifier: Apache-2.0
#include "worker/verdict.h"

#include <nlohmann/json.hpp>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <vector>

namespace rekindle {
namespace {

constexpr int kResamples = 2000;

// SplitMix64 (Steele et al. 2014): the same numbers on every platform, which std's distributions do not
// promise.
class Random {
 public:
  explicit Random(uint64_t seed) : state_(seed) {}
  uint64_t below(uint64_t bound) {
    uint64_t z = state_ += 0x9e3779b97f4a7c15;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9;
    z = (z ^ (z >> 27)) * 0x94d049bb133111eb;
    return static_cast<uint64_t>((static_cast<unsigned __int128>(z ^ (z >> 31)) * bound) >> 64);
  }

 private:
  uint64_t state_;
};

double mean(std::span<const double> values) {
  double sum = 0;
  for (const double value : values) sum += value;
  return sum / static_cast<double>(values.size());
}

// Linear between the two nearest, as numpy.percentile has it.
double percentile(const std::vector<double>& sorted, double share) {
  const double at = share * static_cast<double>(sorted.size() - 1);
  const auto below = static_cast<size_t>(at);
  if (below + 1 == sorted.size()) return sorted.back();
  return sorted[below] + (at - static_cast<double>(below)) * (sorted[below + 1] - sorted[below]);
}

enum class Passes { kYes, kNo, kUnclear };

Passes at_least(double bound, double low, double high) {
  if (!std::isfinite(low)) return Passes::kNo;  // a model whose scores are no numbers is not promoted
  if (low >= bound) return Passes::kYes;
  return high < bound ? Passes::kNo : Passes::kUnclear;
}

std::string number(double value) {
  char text[32];
  std::snprintf(text, sizeof text, "%+.4f", value);
  return text;
}

// One set's answer and, unless it is yes, the words for it.
Passes judge(const Comparison& set, const char* name, bool lower_is_better, double bound,
             std::string& reason) {
  if (!set.low) return Passes::kYes;
  const double low = lower_is_better ? -*set.high : *set.low, high = lower_is_better ? -*set.low : *set.high;
  const Passes passes = at_least(bound, low, high);
  if (passes == Passes::kYes) return passes;
  if (!reason.empty()) reason += "; ";
  reason += std::string("gain on ") + name + " data is between " + number(low) + " and " + number(high) +
            ", " + number(bound) + " is asked for";
  return passes;
}

nlohmann::ordered_json to_json(const Comparison& set) {
  const auto value = [](const std::optional<double>& v) {
    return v ? nlohmann::ordered_json(*v) : nlohmann::ordered_json(nullptr);
  };
  return {{"n", set.n},
          {"parent", value(set.parent)},
          {"child", value(set.child)},
          {"difference", value(set.difference)},
          {"low", value(set.low)},
          {"high", value(set.high)}};
}

}  // namespace

Comparison compare(std::span<const double> parent, std::span<const double> child) {
  Comparison result;
  result.n = static_cast<int64_t>(child.size());
  if (child.empty()) return result;
  result.child = mean(child);
  if (parent.size() != child.size()) return result;
  result.parent = mean(parent);

  std::vector<double> differences(child.size());
  std::transform(child.begin(), child.end(), parent.begin(), differences.begin(), std::minus<>());
  result.difference = mean(differences);
  if (!std::isfinite(*result.difference)) {  // no order among the means then
    result.low = result.high = *result.difference;
    return result;
  }
  Random random(1);
  std::vector<double> means(kResamples);
  for (double& resampled : means) {
    double sum = 0;
    for (size_t i = 0; i < differences.size(); ++i) sum += differences[random.below(differences.size())];
    resampled = sum / static_cast<double>(differences.size());
  }
  std::sort(means.begin(), means.end());
  result.low = percentile(means, 0.025);
  result.high = percentile(means, 0.975);
  return result;
}

Verdict decide(const VerdictOptions& options, const Comparison& old_data, const Comparison& new_data) {
  const bool lower_is_better = options.metric == "loss";
  Verdict verdict;
  verdict.metric = options.metric;
  verdict.old_data = old_data;
  verdict.new_data = new_data;
  const bool has_new = new_data.low.has_value();
  const Passes gains = judge(has_new ? new_data : old_data, has_new ? "new" : "old", lower_is_better,
                             options.min_gain, verdict.reason);
  const Passes keeps = judge(old_data, "old", lower_is_better, -options.max_forgetting, verdict.reason);
  if (gains == Passes::kNo || keeps == Passes::kNo) {
    verdict.verdict = "kept-parent";
  } else if (gains == Passes::kUnclear || keeps == Passes::kUnclear) {
    verdict.verdict = "inconclusive";
    verdict.promote = options.promote_if_inconclusive;
  } else {
    verdict.verdict = "promoted";
    verdict.reason = "within the bounds on new and old data";
    verdict.promote = true;
  }
  return verdict;
}

nlohmann::ordered_json to_json(const Verdict& verdict) {
  const auto digest = [](const std::string& d) {
    return d.empty() ? nlohmann::ordered_json(nullptr) : nlohmann::ordered_json(d);
  };
  return {{"verdict", verdict.verdict},       {"metric", verdict.metric},
          {"reason", verdict.reason},         {"parent", digest(verdict.parent)},
          {"child", digest(verdict.child)},   {"promoted", verdict.promote},
          {"old", to_json(verdict.old_data)}, {"new", to_json(verdict.new_data)}};
}

}  // namespace rekindle
