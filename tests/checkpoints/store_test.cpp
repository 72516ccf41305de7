// SPDX-License-Identifier: Apache-2.0
#include "checkpoints/store.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/mount.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "core/error.h"
#include "tests/checkpoints/saved.h"
#include "tests/support/faulty_file_system.h"
#include "tests/support/temp_directory.h"

namespace rekindle {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::IsSupersetOf;

class StoreTest : public testing::Test {
 protected:
  CheckpointStore store(int keep = 2) { return CheckpointStore(files_, path_, {.every = {}, .keep = keep}); }
  std::vector<std::string> names_there() { return files_.list(path_); }
  std::string step(int64_t number) { return names::step(number); }
  int64_t newest(CheckpointStore& store) {
    const auto checkpoint = store.newest_valid(&complaints_);
    return checkpoint ? checkpoint->state.progress.step : -1;
  }

  TempDirectory directory_;
  std::filesystem::path path_ = directory_.path() / "run" / "checkpoints";
  FileSystem& files_ = posix_file_system();
  std::vector<std::string> complaints_;
};

TEST_F(StoreTest, PublishesWhatTheRanksWrote) {
  CheckpointStore checkpoints = store();
  EXPECT_EQ(newest(checkpoints), -1);
  const Published published = save(files_, checkpoints, 100, 2.5f);
  EXPECT_EQ(published.path, path_ / "step-000000100");
  EXPECT_EQ(published.complaint, "");
  EXPECT_THAT(names_there(), ElementsAre("latest", "step-000000100"));
  EXPECT_EQ(files_.read_link(path_ / "latest"), "step-000000100");
  const auto checkpoint = checkpoints.newest_valid(&complaints_);
  ASSERT_TRUE(checkpoint);
  EXPECT_EQ(checkpoint->digest(), published.digest);
  EXPECT_EQ(first_weight(files_, *checkpoint), 2.5f);
  uint64_t bytes = 0;
  for (const auto& entry : std::filesystem::directory_iterator(published.path)) bytes += entry.file_size();
  EXPECT_EQ(published.bytes, bytes);
  EXPECT_THAT(complaints_, IsEmpty());
}

TEST_F(StoreTest, AFlippedByteAnywhereFallsBackToTheOneBeforeAndSaysWhy) {
  CheckpointStore checkpoints = store();
  save(files_, checkpoints, 100);
  save(files_, checkpoints, 200);
  for (const std::string& name : files_.list(path_ / step(200))) {
    complaints_.clear();
    flip(path_ / step(200) / name, 20);
    EXPECT_EQ(newest(checkpoints), 100) << name;
    ASSERT_EQ(complaints_.size(), 1u) << name;
    EXPECT_THAT(complaints_[0], HasSubstr(step(200)));
    flip(path_ / step(200) / name, 20);
  }
  EXPECT_EQ(newest(checkpoints), 200);
  flip(path_ / step(100) / names::kModel, 20);
  flip(path_ / step(200) / names::kModel, 20);
  EXPECT_EQ(newest(checkpoints), -1);
}

TEST_F(StoreTest, KeepsAsManyAsAskedAndNeverUnderTwo) {
  CheckpointStore three = store(3);
  for (const int64_t number : {1, 2, 3, 4, 5}) save(files_, three, number);
  EXPECT_THAT(names_there(), ElementsAre("latest", step(3), step(4), step(5)));
  CheckpointStore zero = store(0);
  save(files_, zero, 6);
  EXPECT_THAT(names_there(), ElementsAre("latest", step(5), step(6)));
}

TEST_F(StoreTest, NeverPrunesWhatALinkOrItsUserHolds) {
  CheckpointStore checkpoints = store(2);
  for (const int64_t number : {1, 2}) save(files_, checkpoints, number);
  replace_link(files_, path_ / names::kBest, step(1));
  checkpoints.protect(2);
  for (const int64_t number : {3, 4, 5}) save(files_, checkpoints, number);
  EXPECT_THAT(names_there(), ElementsAre("best", "latest", step(1), step(2), step(4), step(5)));
  EXPECT_NO_THROW(open_checkpoint(files_, path_ / names::kBest));
}

TEST_F(StoreTest, TheBestIsLinkedWhenItIsPublishedAndStays) {
  CheckpointStore checkpoints = store(2);
  for (const int64_t number : {1, 2, 3, 4, 5}) {
    checkpoints.publish(number, "a", write_files(files_, checkpoints.prepare(number, "a"), number, 1),
                        number == 2);
  }
  EXPECT_EQ(files_.read_link(path_ / names::kBest), step(2));
  EXPECT_THAT(names_there(), ElementsAre("best", "latest", step(2), step(4), step(5)));
}

TEST_F(StoreTest, TheFirstOfEachStretchStaysForGood) {
  CheckpointStore checkpoints(files_, path_, {.every = {}, .keep = 2, .keep_steps = 100});
  for (int64_t number = 30; number <= 360; number += 30) {
    CheckpointStore again(files_, path_,
                          {.every = {}, .keep = 2, .keep_steps = 100});  // as a resumed run would
    save(files_, number % 60 ? checkpoints : again, number);
  }
  EXPECT_THAT(names_there(), ElementsAre("latest", step(120), step(210), step(300), step(330), step(360)));
}

TEST_F(StoreTest, PutsAsideWhatStandsUnderTheName) {
  CheckpointStore checkpoints = store();
  save(files_, checkpoints, 100, 1);
  flip(path_ / step(100) / names::kModel, 20);
  save(files_, checkpoints, 100, 2);
  EXPECT_THAT(names_there(), ElementsAre("latest", step(100)));
  EXPECT_EQ(first_weight(files_, *checkpoints.newest_valid()), 2);
  save(files_, checkpoints, 100, 3);  // a sound one too
  EXPECT_EQ(first_weight(files_, *checkpoints.newest_valid()), 3);
}

TEST_F(StoreTest, TheOneThatWasPutAsideIsTheLastResort) {
  CheckpointStore checkpoints = store();
  save(files_, checkpoints, 100, 1);
  const auto records = write_files(files_, checkpoints.prepare(100, "b"), 100, 2);
  for (int call = 1; !files_.exists(path_ / names::step_aside(100, "b"));
       ++call) {  // up to between the two renames
    ASSERT_LT(call, 200);
    FaultyFileSystem down;
    down.fail_at = call;
    down.stays_down = true;
    CheckpointStore failing(down, path_, {});
    ASSERT_THROW(failing.publish(100, "b", records), Error);
  }
  EXPECT_FALSE(files_.exists(path_ / step(100)));
  const auto found = checkpoints.newest_valid(&complaints_);
  ASSERT_TRUE(found);
  EXPECT_EQ(first_weight(files_, *found), 1);
  save(files_, checkpoints, 200, 3, "c");
  EXPECT_THAT(names_there(), ElementsAre("latest", step(200)));
}

// A run that fell back behind a damaged generation: it must not count as one of those that are kept.
TEST_F(StoreTest, GenerationsAfterTheNewestAreOfAnotherFutureAndCountForNothing) {
  CheckpointStore checkpoints = store(2);
  save(files_, checkpoints, 100);
  save(files_, checkpoints, 200);
  flip(path_ / step(200) / names::kModel, 20);
  EXPECT_EQ(newest(checkpoints), 100);
  save(files_, checkpoints, 150, 1, "b");
  EXPECT_THAT(names_there(), ElementsAre(names::step_aside(200, "b"), "latest", step(100), step(150)));
  EXPECT_EQ(newest(checkpoints), 150);
  save(files_, checkpoints, 200, 1, "b");
  EXPECT_THAT(names_there(), ElementsAre("latest", step(150), step(200)));
}

TEST_F(StoreTest, PrepareSweepsOtherAttemptsAndLeavesItsOwn) {
  CheckpointStore checkpoints = store();
  checkpoints.prepare(100, "a");
  checkpoints.prepare(200, "a");
  write_synced(files_, checkpoints.temporary(200, "a") / "half", "x");
  checkpoints.prepare(300, "a");
  EXPECT_THAT(names_there(),
              IsSupersetOf({names::step_temporary(100, "a"), names::step_temporary(200, "a")}));
  checkpoints.prepare(200, "a");
  EXPECT_THAT(files_.list(checkpoints.temporary(200, "a")), IsEmpty());
  checkpoints.prepare(100, "b");
  EXPECT_THAT(names_there(), ElementsAre(names::step_temporary(100, "b")));
  checkpoints.discard(100, "b");
  checkpoints.discard(100, "b");
  EXPECT_THAT(names_there(), IsEmpty());
  EXPECT_THROW(checkpoints.prepare(1, "../b"), Error);
  EXPECT_THROW(checkpoints.prepare(1, ""), Error);
}

TEST_F(StoreTest, RefusesRecordsThatAreNotWhatIsThere) {
  CheckpointStore checkpoints = store();
  const auto refused = [&](auto change) {
    std::vector<FileRecord> records = write_files(files_, checkpoints.prepare(100, "a"), 100, 1);
    change(records);
    EXPECT_THROW(checkpoints.publish(100, "a", records), Error);
    EXPECT_THAT(names_there(), IsEmpty());
  };
  refused([](auto& records) { records[3].digest = digest_of("other"); });
  refused([](auto& records) { records[3].bytes += 1; });
  refused([](auto& records) { records.pop_back(), records.push_back({"never-written", 1, digest_of("")}); });
  refused([](auto& records) { records.erase(records.begin()); });  // no state.json
  refused([](auto& records) { records.push_back(records[0]); });
  refused([](auto& records) { records[0].name = "../state.json"; });
}

TEST_F(StoreTest, ADiskThatWritesOtherBytesIsFoundBeforeTheRename) {
  FaultyFileSystem wrong;
  wrong.flips_bytes = true;
  CheckpointStore verifying(wrong, path_, {});
  const auto records = write_files(wrong, verifying.prepare(100, "a"), 100, 1);
  EXPECT_THROW(verifying.publish(100, "a", records), Error);
  EXPECT_THAT(names_there(), IsEmpty());
  CheckpointStore trusting(wrong, path_, {.every = {}, .keep = 2, .verify = false});
  trusting.prepare(100, "a");
  trusting.publish(100, "a", write_files(wrong, trusting.temporary(100, "a"), 100, 1));
  EXPECT_TRUE(files_.exists(path_ / step(100)));
  EXPECT_EQ(newest(trusting), -1);
}

TEST_F(StoreTest, LatestMovesOnlyAfterTheRenameAndPruningComesLast) {
  FaultyFileSystem files;
  CheckpointStore checkpoints(files, path_, {.every = {}, .keep = 2});
  for (const int64_t number : {1, 2}) save(files_, checkpoints, number);
  const size_t before = files.log().size();
  save(files_, checkpoints, 3);
  std::vector<std::string> changes(files.log().begin() + static_cast<std::ptrdiff_t>(before),
                                   files.log().end());
  std::erase_if(changes, [](const std::string& name) {
    return name == "open" || name == "exists" || name == "read_link" || name == "list" ||
           name == "is_directory";
  });
  EXPECT_THAT(changes, ElementsAre("create_directories", "create_directory",             // prepare
                                   "create", "append", "sync", "close",                  // manifest
                                   "sync_directory", "rename", "sync_directory",         // step-3
                                   "remove", "create_link", "rename", "sync_directory",  // latest
                                   "remove_all", "rename", "sync_directory",             // step-1 put aside
                                   "remove_all"));                                       // and removed
}

TEST_F(StoreTest, AFailedSyncIsNotTriedAgain) {
  FaultyFileSystem files;
  CheckpointStore checkpoints(files, path_, {});
  const auto records = write_files(files_, checkpoints.prepare(1, "a"), 1, 1);
  files.fail_at = files.calls() + 3;  // create, append, sync
  EXPECT_THROW(checkpoints.publish(1, "a", records), Error);
  EXPECT_EQ(std::ranges::count(files.log(), "sync"), 1);
  EXPECT_EQ(std::ranges::count(files.log(), "rename"), 0);
  EXPECT_THAT(names_there(), IsEmpty());
}

TEST_F(StoreTest, ARunThatGoesBackForgetsWhatItGoesBackBehind) {
  CheckpointStore checkpoints = store(9);
  EXPECT_FALSE(checkpoints.drop_from(5));  // there is none
  for (const int64_t step : {10, 20, 30}) save(files_, checkpoints, step);
  EXPECT_FALSE(checkpoints.drop_from(10));  // none before
  EXPECT_EQ(newest(checkpoints), 30);
  EXPECT_EQ(checkpoints.drop_from(20), 10);
  EXPECT_EQ(newest(checkpoints), 10);
  EXPECT_THAT(names_there(), ElementsAre("latest", step(10)));
  EXPECT_EQ(files_.read_link(path_ / "latest"), step(10));
  save(files_, checkpoints, 20);
  save(files_, checkpoints, 30);
  std::filesystem::resize_file(path_ / step(20) / names::kModel, 5);
  std::filesystem::resize_file(path_ / step(10) / names::kModel, 5);
  EXPECT_FALSE(checkpoints.drop_from(30));  // what is before is no checkpoint
  EXPECT_EQ(newest(checkpoints), 30);
}

TEST_F(StoreTest, AFailureToPruneIsAComplaintAndNotALostCheckpoint) {
  FaultyFileSystem files;
  CheckpointStore checkpoints(files, path_, {.every = {}, .keep = 2});
  for (const int64_t number : {1, 2, 3}) save(files_, checkpoints, number);
  const int calls = files.calls();
  save(files_, checkpoints, 4);
  files.fail_at = files.calls() + (files.calls() - calls);  // the same call of the next save: its last
  EXPECT_THAT(save(files_, checkpoints, 5).complaint, HasSubstr("remove_all"));
  EXPECT_EQ(newest(checkpoints), 5);
  EXPECT_EQ(save(files_, checkpoints, 6).complaint, "");
  EXPECT_THAT(names_there(), ElementsAre("latest", step(5), step(6)));
}

// A file system of one MiB, where the test may mount one.
class SmallDisk {
 public:
  explicit SmallDisk(std::filesystem::path path) : path_(std::move(path)) {
    std::filesystem::create_directories(path_);
    error_ = ::mount("tmpfs", path_.c_str(), "tmpfs", 0, "size=1m") == 0 ? 0 : errno;
  }
  ~SmallDisk() {
    if (error_ == 0) ::umount2(path_.c_str(), MNT_DETACH);
  }
  int error() const { return error_; }

 private:
  std::filesystem::path path_;
  int error_ = 0;
};

TEST_F(StoreTest, AFullDiskIsAnErrorWithAHintAndLeavesNothingHalf) {
  const SmallDisk disk(path_);
  if (disk.error() != 0) GTEST_SKIP() << "cannot mount a tmpfs here: " << std::strerror(disk.error());
  CheckpointStore checkpoints = store();
  save(files_, checkpoints, 1);
  const auto directory = checkpoints.prepare(2, "a");
  const std::vector<std::byte> large(2 << 20);
  try {
    safetensors::write(files_, directory / names::kModel, {{"w", safetensors::DType::kU8, {2 << 20}, large}});
    FAIL() << "two MiB went into one";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ExitCode::kFailed);
    EXPECT_THAT(error.what(), HasSubstr("No space left"));
    EXPECT_THAT(error.details().hint, HasSubstr("free some space"));
  }
  EXPECT_EQ(newest(checkpoints), 1);
  checkpoints.discard(2, "a");
  EXPECT_THAT(names_there(), ElementsAre("latest", step(1)));
  // And where the disk is full when rank 0 seals it: everything but the manifest found room.
  const auto records = write_files(files_, checkpoints.prepare(3, "a"), 3, 1);
  {
    const auto filler = files_.create(path_ / "filler");
    const std::vector<std::byte> page(4096);
    EXPECT_THROW(for (;;) filler->append(page), Error);
  }
  EXPECT_THROW(checkpoints.publish(3, "a", records), Error);
  EXPECT_THAT(names_there(), ElementsAre("filler", "latest", step(1)));
  EXPECT_EQ(newest(checkpoints), 1);
  files_.remove(path_ / "filler");
  save(files_, checkpoints, 3);
  EXPECT_EQ(newest(checkpoints), 3);
}

}  // namespace
}  // namespace rekindle
