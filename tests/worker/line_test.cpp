// SPDX-License-Identifier: Apache-2.0
#include "worker/line.h"

#include <gmock/gmock.h>

#include <fstream>

#include "checkpoints/store.h"
#include "core/error.h"
#include "core/names.h"
#include "core/safetensors.h"
#include "tests/support/temp_directory.h"
#include "worker/metrics_log.h"

namespace rekindle {
namespace {

using testing::HasSubstr;

class LineTest : public testing::Test {
 protected:
  Job job(const std::string& place, const std::string& lr = "0.1") {
    const auto path = directory_.path() / "job.toml";
    std::ofstream(path) << "[data]\nkind = \"safetensors\"\npath = \"x.safetensors\"\n[batch]\nglobal = 8\n"
                        << "[schedule]\nbase_lr = " << lr << "\n[run]\nduration = \"1ep\"\n"
                        << place << "\n";
    return read_job(path);
  }

  // A run as a worker leaves it: with its resolved job, and `end` if it got so far.
  void leave(const std::filesystem::path& run, const Job& job, const char* status) {
    write_synced(files_, run / names::kResolvedJob, to_toml(job));
    MetricsLog(files_, run / names::kMetrics).write("end", {{"status", status}});
  }

  std::string checkpoint(const std::filesystem::path& directory, uint64_t seed) {
    CheckpointStore store(files_, directory, {});
    const auto path = store.prepare(1, "a");
    TrainState state;
    state.seed = seed;
    state.worlds = {{0, 1}};
    state.job_digest = std::string(32, 'a');
    Lineage lineage;
    lineage.job = state.job_digest;
    ModelCard card;
    card.model = "mlp";
    card.sample_shape = {1};
    card.classes = {"0", "1"};
    card.data_kind = "idx";
    auto records = write_documents(files_, path, state, lineage, card);
    records.push_back(
        record_of(files_, path / names::kModel, safetensors::write(files_, path / names::kModel, {})));
    return store.publish(1, "a", records).digest;
  }

  TempDirectory directory_;
  FileSystem& files_ = posix_file_system();
};

template <typename Part>
std::string error_of(ExitCode code, const Part& part) {
  try {
    part();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), code) << error.what();
    return error.what();
  }
  return "no error";
}

TEST_F(LineTest, ASecondRunOfALineIsRefusedAndTheLiveOneIsNamed) {
  const Job one = job("line = \"line\"");
  RunPlace first(files_, one);
  const auto run = first.open();
  leave(run, one, "preempted");
  EXPECT_THAT(error_of(ExitCode::kFailed, [&] { RunPlace(files_, one); }),
              HasSubstr(run.filename().string()));
}

TEST_F(LineTest, AnUnfinishedRunOfTheSameJobIsTakenUpAndAnotherIsLeft) {
  const Job mine = job("line = \"line\""), other = job("line = \"line\"", "0.2");
  std::filesystem::path run;
  {
    RunPlace place(files_, mine);
    EXPECT_FALSE(place.unfinished());
    run = place.open();
    leave(run, mine, "preempted");
  }
  {
    RunPlace place(files_, other);
    EXPECT_FALSE(place.unfinished());
    EXPECT_NE(place.open(), run);
  }
  RunPlace again(files_, mine);
  EXPECT_TRUE(again.unfinished());
  EXPECT_EQ(again.open(), run);
}

TEST_F(LineTest, ARunThatIsDoneIsNotTakenUp) {
  const Job mine = job("line = \"line\"");
  std::filesystem::path run;
  {
    RunPlace place(files_, mine);
    run = place.open();
    leave(run, mine, "done");
  }
  RunPlace place(files_, mine);
  EXPECT_FALSE(place.unfinished());
  EXPECT_NE(place.open(), run);
}

TEST_F(LineTest, ADirectoryOfItsOwnBelongsToOneJob) {
  const Job mine = job("directory = \"own\"");
  {
    RunPlace place(files_, mine);
    leave(place.open(), mine, "done");
  }
  EXPECT_TRUE(RunPlace(files_, mine).finished());
  Job longer = mine;
  longer.run.duration = {2, Unit::kEpochs};
  RunPlace extended(files_, longer);
  EXPECT_TRUE(extended.unfinished());
  EXPECT_FALSE(extended.finished());
  EXPECT_THAT(error_of(ExitCode::kFailed, [&] { RunPlace(files_, mine); }), HasSubstr("is live"));
}

TEST_F(LineTest, AnotherJobsDirectoryIsRefused) {
  const Job mine = job("directory = \"own\"");
  {
    RunPlace place(files_, mine);
    leave(place.open(), mine, "done");
  }
  EXPECT_THAT(error_of(ExitCode::kBadInput, [&] { RunPlace(files_, job("directory = \"own\"", "0.2")); }),
              HasSubstr("belongs to another job: schedule.base_lr = 0.2 instead of 0.1"));
  std::filesystem::create_directory(directory_.path() / "mine");
  std::ofstream(directory_.path() / "mine" / "thesis.tex") << "x";
  EXPECT_THAT(error_of(ExitCode::kBadInput, [&] { RunPlace(files_, job("directory = \"mine\"")); }),
              HasSubstr("holds other things"));
}

TEST_F(LineTest, PromotionIsCompareAndSwap) {
  const auto line = directory_.path() / "line";
  const std::string first = checkpoint(line / "run1" / "checkpoints", 1);
  const std::string second = checkpoint(line / "run2" / "checkpoints", 2);
  const auto path = [&](const char* run) {
    return open_checkpoint(files_, line / run / "checkpoints" / names::step(1));
  };
  EXPECT_TRUE(promote(files_, line, path("run1"), "a file from elsewhere"));  // nothing is served yet
  EXPECT_EQ(files_.read_link(line / names::kPromoted), "run1/checkpoints/step-000000001");
  EXPECT_FALSE(promote(files_, line, path("run2"), ""));
  EXPECT_FALSE(promote(files_, line, path("run2"), second));
  EXPECT_EQ(files_.read_link(line / names::kPromoted), "run1/checkpoints/step-000000001");
  EXPECT_TRUE(promote(files_, line, path("run1"), ""));  // again: it serves already
  EXPECT_TRUE(promote(files_, line, path("run2"), first));
  EXPECT_EQ(files_.read_link(line / names::kPromoted), "run2/checkpoints/step-000000001");
}

}  // namespace
}  // namespace rekindle
