// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <utility>
#include <vector>

namespace rekindle {

enum class Strategy { kCold, kWarm };

// Who reads the parent's weights from disk.
enum class WeightReader {
  kRankZero,  // and sends them: the others need no file system
  kEachNode,  // every copy in memory is read on its own, where all nodes have the file on a fast disk
};

// What becomes of a part of the parent.
enum class Carry { kReset, kLoad };

// Where a child's schedule begins.
enum class CarrySchedule {
  kReset,     // anew
  kContinue,  // where the parent's stood
  kRewarm,    // at the parent's last rate, from which it warms up again (Ibrahim et al. 2024)
};

// `[warm_start]`
struct WarmStartOptions {
  std::string from;                     // "promoted" of the line, or a path; empty: no parent at all
  Strategy strategy = Strategy::kWarm;  // cold: the parent is only what the child is compared with
  double min_loaded = 0.95;             // share of the parameters that must come from the parent

  // Which tensors take part. Rules rewrite the parent's names, each in turn (a regular expression, and what
  // replaces it); globs then choose among the model's.
  std::vector<std::pair<std::string, std::string>> rename;
  std::vector<std::string> include;  // empty: all
  std::vector<std::string> exclude;

  WeightReader read = WeightReader::kRankZero;

  // `[warm_start.load]`
  Carry weights = Carry::kLoad;
  Carry batch_norm = Carry::kLoad;  // running statistics
  Carry optimizer = Carry::kReset;  // moments and their count of steps
  Carry ema = Carry::kReset;        // trained and averaged weights apart, as the parent had them
  CarrySchedule schedule = CarrySchedule::kReset;
  double rewarm_factor = 1;  // the peak of kRewarm, as a share of the usual one

  bool reads_optimizer() const { return optimizer == Carry::kLoad || ema == Carry::kLoad; }
};

}  // namespace rekindle
