// SPDX-License-Identifier: Apache-2.0
// Two ranks that train and save on a disk that fails at any call: all ranks hear of it alike, what stood
// before is whole, and the run goes on from there to the model that it would have become.
#include "worker/checkpointer.h"

#include <gmock/gmock.h>
#include <unistd.h>

#include <mutex>

#include "checkpoints/store.h"
#include "comm/flat_parameters.h"
#include "comm/thread_communicator.h"
#include "core/error.h"
#include "core/names.h"
#include "tests/data/files.h"
#include "tests/support/faulty_file_system.h"
#include "tests/support/temp_directory.h"
#include "worker/model_card.h"
#include "worker/trainer.h"

namespace rekindle {
namespace {

constexpr int kWorld = 2, kMostCalls = 1000;

class Training {
 public:
  Training(bool background, bool gather) {
    const auto path = directory_.path() / "data";
    std::vector<float> x;
    std::vector<int64_t> y;
    for (int i = 0; i < 48; ++i) {
      y.push_back(i % 3);
      for (int j = 0; j < 5; ++j) x.push_back(static_cast<float>((i * 7 + j * 3) % 11) / 11);
    }
    write_safetensors(path, {48, 5}, x, y);
    job_.data = {.kind = "safetensors",
                 .increments = {{.images = {}, .labels = {}, .path = path, .range = {}}}};
    job_.batch.global = 8;
    job_.optimizer.name = "adamw";
    job_.schedule.base_lr = 0.01;
    job_.run.duration = {6, Unit::kBatches};
    job_.checkpoint.every = {2, Unit::kBatches};
    job_.checkpoint.keep = 2;
    job_.checkpoint.background = background;
    job_.checkpoint.gather = gather;
    data_.emplace(posix_file_system(), job_.data);
    split_ = split(*data_, job_.split);
  }

  // What the ranks heard, each; empty where the run came to its end.
  std::vector<std::string> run(FileSystem& files, const std::string& name, int64_t* resumed_at = nullptr) {
    std::mutex mutex;
    std::vector<std::string> heard;
    CommOptions options;
    options.deadline = job_.run.deadline;
    run_as_threads(kWorld, options, [&](Communicator& communicator) {
      std::string error;
      try {
        torch::manual_seed(1);
        const auto model =
            make_model({"mlp", {{"hidden", std::vector<int64_t>{8}}, {"batch_norm", true}}}, data_->shape());
        communicator.barrier("models are made");
        const NamedState state = state_of(*model);
        for (const auto& [parameter, tensor] : state.parameters) tensor.detach().fill_(0.1);
        const FlatParameters parameters(communicator, state.parameters);
        MetricsLog metrics;
        const Run run{job_,   communicator, files,      path(name), *data_,
                      split_, *model,       parameters, state,      metrics};
        Lineage lineage;
        lineage.job = job_digest(job_);
        lineage.build = "test";
        Trainer trainer(run, lineage, card_of(job_, data_->shape(), data_->classes()));
        if (trainer.resume() && resumed_at != nullptr && run.is_root()) *resumed_at = trainer.progress().step;
        trainer.train();
      } catch (const AgreedError& agreed) {
        error = agreed.what();
      }
      const std::lock_guard lock(mutex);
      heard.push_back(error);
    });
    return heard;
  }

  Checkpoint newest(const std::string& name) {
    std::vector<std::string> complaints;
    CheckpointStore store(posix_file_system(), path(name) / names::kCheckpoints, {});
    std::optional<Checkpoint> newest = store.newest_valid(&complaints);
    EXPECT_THAT(complaints, testing::IsEmpty());
    if (!newest) throw std::runtime_error("there is no checkpoint of " + name);
    return std::move(*newest);
  }

  std::string digest_of_model(const std::string& name) {
    return newest(name).manifest.find(names::kModel)->digest;
  }

  void set_deadline(std::chrono::milliseconds deadline) { job_.run.deadline = deadline; }

  std::filesystem::path path(const std::string& name) const { return directory_.path() / name; }

 private:
  // In memory where that can be: thousands of syncs.
  TempDirectory directory_{::access("/dev/shm", W_OK) == 0 ? "/dev/shm"
                                                           : std::filesystem::temp_directory_path()};
  Job job_;
  std::optional<Dataset> data_;
  Split split_;
};

// With `stays_down` it is as if the processes had been killed at that call.
void fail_at_every_call(Training& training, bool stays_down) {
  ASSERT_THAT(training.run(posix_file_system(), "whole"), testing::Each(""));
  const std::string whole = training.digest_of_model("whole");
  int heard_of = 0, fail_at = 1;
  for (bool reached = true; reached; ++fail_at) {
    SCOPED_TRACE((stays_down ? "down from call " : "fails at call ") + std::to_string(fail_at));
    ASSERT_LT(fail_at, kMostCalls);
    const std::string name = "run-" + std::to_string(fail_at);
    FaultyFileSystem faulty;
    faulty.fail_at = fail_at;
    faulty.stays_down = stays_down;
    const std::vector<std::string> heard = training.run(faulty, name);
    reached = faulty.calls() >= fail_at;
    ASSERT_THAT(heard, testing::AllOf(testing::SizeIs(kWorld), testing::Each(heard.front())));
    const bool ended = heard.front().empty();
    heard_of += !ended;
    if (!ended) {
      EXPECT_THAT(heard.front(), testing::HasSubstr("injected fault"));
    }

    int64_t resumed_at = 0;
    ASSERT_THAT(training.run(posix_file_system(), name, &resumed_at), testing::Each(""));
    EXPECT_EQ(training.newest(name).state.progress.step, 6);
    EXPECT_EQ(training.digest_of_model(name), whole) << "resumed at step " << resumed_at;
    EXPECT_TRUE(!ended || resumed_at == 6);  // what was said to be saved is
    std::filesystem::remove_all(training.path(name));
    if (testing::Test::HasFailure()) return;
  }
  EXPECT_GT(fail_at, 150);  // it did go through three saves
  EXPECT_GT(heard_of, 100);
}

TEST(Checkpointer, InTheBackgroundWhateverCallFails) {
  Training training(true, false);
  fail_at_every_call(training, false);
}

TEST(Checkpointer, InTheBackgroundWheneverItIsKilled) {
  Training training(true, false);
  fail_at_every_call(training, true);
}

TEST(Checkpointer, InTheForegroundWhateverCallFails) {
  Training training(false, false);
  fail_at_every_call(training, false);
}

TEST(Checkpointer, GatheredWhateverCallFails) {
  Training training(true, true);
  fail_at_every_call(training, false);
}

// A disk may be as slow as it likes: the deadline is for ranks that hang.
TEST(Checkpointer, ASlowDiskIsNoRankThatHangs) {
  FaultyFileSystem slow;
  slow.sync_takes = std::chrono::milliseconds(300);
  for (const bool background : {true, false}) {
    Training training(background, false);
    training.set_deadline(std::chrono::milliseconds(200));
    EXPECT_THAT(training.run(slow, "slow"), testing::Each(""));
    EXPECT_EQ(training.newest("slow").state.progress.step, 6);
  }
}

}  // namespace
}  // namespace rekindle
