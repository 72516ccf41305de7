// SPDX-License-Identifier: Apache-2.0
// A save that fails at any call, with and without the machine's power: what was there before still loads, and
// nothing half-written stands under a final name.
#include <gtest/gtest.h>
#include <unistd.h>

#include <optional>

#include "core/error.h"
#include "tests/checkpoints/saved.h"
#include "tests/support/faulty_file_system.h"
#include "tests/support/temp_directory.h"

namespace rekindle {
namespace {

constexpr int kMostCalls = 500;

struct Scenario {
  const char* name;
  std::vector<int64_t> before;  // steps that stand
  int64_t saved;                // the step that is saved then
  int64_t best_before = 0;      // the best so far; 0: none
  bool is_best = false;         // the step that is saved becomes it
};

struct Fault {
  const char* name;
  bool stays_down;
  std::optional<FaultyFileSystem::Loss> loss;
};

const std::vector<Scenario> kScenarios = {
    {"first", {}, 3},         {"third, which prunes", {1, 2}, 3},   {"one that stands", {1, 2}, 2},
    {"the only one", {2}, 2}, {"a better one", {1, 2}, 3, 1, true}, {"no better one", {1, 2}, 3, 1, false}};
const std::vector<Fault> kFaults = {{"one call", false, {}},
                                    {"killed", true, {}},
                                    {"power lost", true, FaultyFileSystem::Loss::kAll},
                                    {"power lost, writes reordered", true, FaultyFileSystem::Loss::kOldest}};

class Trial {
 public:
  Trial(const Scenario& scenario, const Fault& fault, int fail_at) : scenario_(scenario), fault_(fault) {
    CheckpointStore good(files_, path_, {.every = {}, .keep = 2});
    for (const int64_t step : scenario.before) save(files_, good, step, 1, "a", step == scenario.best_before);
    FaultyFileSystem faulty;
    faulty.fail_at = fail_at;
    faulty.stays_down = fault.stays_down;
    CheckpointStore failing(faulty, path_, {.every = {}, .keep = 2});
    try {
      save(faulty, failing, scenario.saved, 2, "b", scenario.is_best);
      published_ = true;
    } catch (const Error&) {
    }
    reached_ = faulty.calls() >= fail_at;
    if (fault.loss) faulty.power_loss(*fault.loss);
  }

  bool reached() const { return reached_; }  // the call that was to fail

  void check() {
    if (!files_.exists(path_)) {
      EXPECT_TRUE(scenario_.before.empty() && !published_);
      return;
    }
    for (const std::string& name : files_.list(path_)) {
      if (name.starts_with('.')) continue;
      if (name == names::kLatest && fault_.stays_down && is_between_renames()) continue;
      EXPECT_NO_THROW(open_checkpoint(files_, path_ / name)) << name;
    }
    CheckpointStore store(files_, path_, {.every = {}, .keep = 2});
    const auto newest = store.newest_valid();
    if (published_) {
      ASSERT_TRUE(newest);
      EXPECT_EQ(newest->state.progress.step, scenario_.saved);
      EXPECT_EQ(first_weight(files_, *newest), 2) << "publish() said that it stands";
    } else if (!scenario_.before.empty()) {
      ASSERT_TRUE(newest);
      EXPECT_GE(newest->state.progress.step, scenario_.before.size() > 1 ? *(scenario_.before.end() - 2) : 2);
    }
    const int64_t best = newest ? best_at(newest->state.progress.step) : 0;
    if (newest) store.mend_links(newest->state.progress.step, best > 0 ? std::optional(best) : std::nullopt);
    save(files_, store, 9, 4, "c");  // and the run can go on
    EXPECT_EQ(store.newest_valid()->state.progress.step, 9);
    if (best > 0) {
      EXPECT_EQ(files_.read_link(path_ / names::kBest), names::step(best));
      EXPECT_NO_THROW(open_checkpoint(files_, path_ / names::kBest));
    }
    for (const std::string& name : files_.list(path_)) {
      EXPECT_TRUE(name == names::kLatest || (best > 0 && name == names::kBest) || names::step_in(name) >= 0)
          << name << " is left over";
    }
  }

 private:
  // What state.json of the checkpoint of that step says is the best.
  int64_t best_at(int64_t step) const {
    return step == scenario_.saved && scenario_.is_best ? step : scenario_.best_before;
  }
  // Ended just when the one that stands had been put aside: newest_valid() is the way back.
  bool is_between_renames() const {
    return files_.exists(path_ / names::step_aside(scenario_.saved, "b")) &&
           !files_.exists(path_ / names::step(scenario_.saved));
  }
  // In memory where that can be: thousands of syncs, and the power is lost in play only.
  static std::filesystem::path fast_place() {
    return ::access("/dev/shm", W_OK) == 0 ? "/dev/shm" : std::filesystem::temp_directory_path();
  }

  const Scenario& scenario_;
  const Fault& fault_;
  TempDirectory directory_{fast_place()};
  std::filesystem::path path_ = directory_.path() / "checkpoints";
  FileSystem& files_ = posix_file_system();
  bool published_ = false, reached_ = false;
};

TEST(FaultInjection, WhateverCallFailsAGenerationLoads) {
  for (const Scenario& scenario : kScenarios) {
    for (const Fault& fault : kFaults) {
      int fail_at = 1;
      for (bool reached = true; reached; ++fail_at) {
        SCOPED_TRACE(std::string(scenario.name) + ", " + fault.name + ", call " + std::to_string(fail_at));
        ASSERT_LT(fail_at, kMostCalls);
        Trial trial(scenario, fault, fail_at);
        reached = trial.reached();
        trial.check();
        if (testing::Test::HasFailure()) return;
      }
      EXPECT_GT(fail_at, 30);  // it did go through a whole save
    }
  }
}

}  // namespace
}  // namespace rekindle
