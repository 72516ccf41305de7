// SPDX-License-Identifier: Apache-2.0
#include "core/file_system.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <fstream>

#include "core/digest.h"
#include "core/error.h"
#include "tests/support/faulty_file_system.h"
#include "tests/support/temp_directory.h"

namespace rekindle {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

template <typename Work>
Error error_of(Work work) {
  try {
    work();
  } catch (const Error& error) {
    return error;
  }
  ADD_FAILURE() << "no error";
  return Error("");
}

class FileSystemTest : public testing::Test {
 protected:
  FileSystem::Path path(const std::string& name) const { return directory_.path() / name; }
  std::vector<std::string> names() { return files_.list(directory_.path()); }

  TempDirectory directory_;
  FileSystem& files_ = posix_file_system();
};

TEST_F(FileSystemTest, WritesAppendsAndReadsAtAnyOffset) {
  write_synced(files_, path("a"), "0123456789");
  {
    const auto file = files_.append_to(path("a"));
    file->append(std::as_bytes(std::span(std::string_view("abc"))));
    file->close();
  }
  EXPECT_EQ(read_text(files_, path("a")), "0123456789abc");
  const auto file = files_.open(path("a"));
  EXPECT_EQ(file->size(), 13u);
  std::string part(4, ' ');
  file->read_at(8, std::as_writable_bytes(std::span(part)));
  EXPECT_EQ(part, "89ab");
  write_synced(files_, path("a"), "new");
  EXPECT_EQ(read_text(files_, path("a")), "new");
}

TEST_F(FileSystemTest, ErrorsNamePathAndReason) {
  const Error missing = error_of([&] { files_.open(path("none")); });
  EXPECT_THAT(missing.what(), HasSubstr(path("none").string()));
  EXPECT_THAT(missing.what(), HasSubstr("No such file"));
  EXPECT_THAT(error_of([&] { files_.open(directory_.path()); }).what(), HasSubstr("Is a directory"));
  EXPECT_THAT(error_of([&] { files_.create(path("no/such/folder")); }).what(), HasSubstr("No such file"));
  EXPECT_THAT(error_of([&] { files_.list(path("none")); }).what(), HasSubstr("No such file"));
  EXPECT_THAT(error_of([&] { files_.rename(path("x"), path("y")); }).what(), HasSubstr(path("y").string()));
  write_synced(files_, path("file"), "");
  EXPECT_THAT(error_of([&] { files_.create_directory(path("file")); }).what(), HasSubstr("File exists"));
  EXPECT_THAT(error_of([&] { files_.create_directories(path("file/under")); }).what(),
              HasSubstr("file/under"));
}

TEST_F(FileSystemTest, AReadBeyondTheEndIsAnErrorAndNotZeros) {
  write_synced(files_, path("a"), "12345");
  const auto file = files_.open(path("a"));
  std::string part(3, ' ');
  const Error error = error_of([&] { file->read_at(3, std::as_writable_bytes(std::span(part))); });
  EXPECT_EQ(error.code(), ExitCode::kBadInput);
  EXPECT_THAT(error.what(), HasSubstr("ends at byte 5"));
}

TEST_F(FileSystemTest, APipeIsRefusedAndNotWaitedFor) {
  ASSERT_EQ(::mkfifo(path("pipe").c_str(), 0600), 0);
  EXPECT_THAT(error_of([&] { files_.open(path("pipe")); }).what(), HasSubstr("not a regular file"));
}

TEST_F(FileSystemTest, AWriteThatGoesOnlyHalfWayIsAnError) {
  ::signal(SIGXFSZ, SIG_IGN);
  rlimit old{};
  ASSERT_EQ(::getrlimit(RLIMIT_FSIZE, &old), 0);
  const rlimit small{1000, old.rlim_max};
  const auto file = files_.create(path("a"));
  ASSERT_EQ(::setrlimit(RLIMIT_FSIZE, &small), 0);  // the first write is short, the rest fails
  const std::vector<std::byte> bytes(1500);
  const Error error = error_of([&] { file->append(bytes); });
  ASSERT_EQ(::setrlimit(RLIMIT_FSIZE, &old), 0);
  EXPECT_THAT(error.what(), HasSubstr("File too large"));
  EXPECT_EQ(std::filesystem::file_size(path("a")), 1000u);
}

TEST_F(FileSystemTest, LooksThroughLinksAndTellsWhatTheySay) {
  EXPECT_TRUE(files_.create_directory(path("folder")));
  EXPECT_FALSE(files_.create_directory(path("folder")));
  files_.create_link(path("link"), "folder");
  files_.create_link(path("dangling"), "nowhere");
  EXPECT_TRUE(files_.exists(path("link")));
  EXPECT_TRUE(files_.is_directory(path("link")));
  EXPECT_FALSE(files_.exists(path("dangling")));
  EXPECT_FALSE(files_.is_directory(path("dangling")));
  EXPECT_EQ(files_.read_link(path("link")), "folder");
  EXPECT_EQ(files_.read_link(path("folder")), std::nullopt);
  EXPECT_EQ(files_.read_link(path("none")), std::nullopt);
  EXPECT_THAT(names(), ElementsAre("dangling", "folder", "link"));
  files_.remove(path("dangling"));
  files_.remove(path("dangling"));  // gone is fine
  files_.remove_all(path("link"));
  EXPECT_TRUE(files_.is_directory(path("folder")));  // a link is removed, not what it leads to
  files_.remove_all(path("folder"));
  EXPECT_THAT(names(), IsEmpty());
}

TEST_F(FileSystemTest, ReadTextHasALimit) {
  write_synced(files_, path("a"), "123456");
  EXPECT_EQ(read_text(files_, path("a"), 6), "123456");
  EXPECT_THAT(error_of([&] { read_text(files_, path("a"), 5); }).what(), HasSubstr("6 bytes"));
}

TEST_F(FileSystemTest, ReplaceFileLeavesTheOldOneWhereItFails) {
  write_synced(files_, path("a"), "old");
  for (const char* failing : {"create", "append", "sync", "close", "rename"}) {
    FaultyFileSystem probe;
    replace_file(probe, path("other"), "x");
    const auto call = std::ranges::find(probe.log(), failing);
    ASSERT_NE(call, probe.log().end()) << failing;
    FaultyFileSystem faulty;
    faulty.fail_at = static_cast<int>(call - probe.log().begin()) + 1;
    error_of([&] { replace_file(faulty, path("a"), "new"); });
    EXPECT_EQ(read_text(files_, path("a")), "old") << failing;
    EXPECT_THAT(names(), ElementsAre("a", "other")) << failing;
  }
  replace_file(files_, path("a"), "new");
  EXPECT_EQ(read_text(files_, path("a")), "new");
}

TEST_F(FileSystemTest, WhatWasReplacedOutlivesAPowerLoss) {
  FaultyFileSystem faulty;
  replace_file(faulty, path("file"), "content");
  replace_link(faulty, path("link"), "target");
  write_synced(faulty, path("unsynced directory"), "content");
  faulty.power_loss(FaultyFileSystem::Loss::kAll);
  EXPECT_EQ(read_text(files_, path("file")), "content");
  EXPECT_EQ(files_.read_link(path("link")), "target");
  EXPECT_THAT(names(), ElementsAre("file", "link"));
}

TEST_F(FileSystemTest, ReplaceLinkReplacesAndSweepsItsOwnRemains) {
  replace_link(files_, path("latest"), "one");
  files_.create_link(path(".latest.tmp"), "of a process that ended half-way");
  replace_link(files_, path("latest"), "two");
  EXPECT_EQ(files_.read_link(path("latest")), "two");
  EXPECT_THAT(names(), ElementsAre("latest"));
}

TEST_F(FileSystemTest, DigestOfAFileIsThatOfItsBytes) {
  std::string text((5 << 20) + 7, 'x');  // several chunks and a rest
  text[3 << 20] = 'y';
  write_synced(files_, path("a"), text);
  EXPECT_EQ(digest_of_file(files_, path("a")), digest_of(text));
  EXPECT_EQ(digest_of_file(files_, path("a"), true), digest_of(text));
  write_synced(files_, path("empty"), "");
  EXPECT_EQ(digest_of_file(files_, path("empty")), digest_of(""));
}

// How many of a file's pages the kernel holds in memory.
int pages_in_cache(const FileSystem::Path& path) {
  const int file = ::open(path.c_str(), O_RDWR | O_CLOEXEC);
  const size_t bytes = std::filesystem::file_size(path);
  void* memory = ::mmap(nullptr, bytes, PROT_READ, MAP_SHARED, file, 0);
  std::vector<unsigned char> pages((bytes + 4095) / 4096);
  EXPECT_EQ(::mincore(memory, bytes, pages.data()), 0);
  ::munmap(memory, bytes);
  ::close(file);
  return static_cast<int>(std::ranges::count_if(pages, [](unsigned char page) { return page & 1; }));
}

TEST_F(FileSystemTest, DropCacheMakesTheNextReadGoToTheDisk) {
  struct statfs status {};
  ASSERT_EQ(::statfs(directory_.path().c_str(), &status), 0);
  if (status.f_type == 0x01021994)
    GTEST_SKIP() << "temporary files are on a tmpfs, which is nothing but cache";
  write_synced(files_, path("a"), std::string(1 << 20, 'x'));
  ASSERT_GT(pages_in_cache(path("a")), 0);
  files_.open(path("a"))->drop_cache();
  EXPECT_EQ(pages_in_cache(path("a")), 0);
}

TEST_F(FileSystemTest, OneHoldsTheLockAndItsNoteIsReadByOthers) {
  EXPECT_EQ(files_.lock_note(path("lock")), "");
  auto first = files_.try_lock(path("lock"), "first run");
  ASSERT_TRUE(first);
  EXPECT_FALSE(files_.try_lock(path("lock"), "second"));
  EXPECT_EQ(files_.lock_note(path("lock")), "first run");
  first.reset();
  EXPECT_TRUE(files_.try_lock(path("lock"), "2"));
  EXPECT_EQ(files_.lock_note(path("lock")), "2");  // and nothing of the longer one before
}

TEST_F(FileSystemTest, TheLockGoesWithItsProcessHoweverThatEnds) {
  int ready[2];
  ASSERT_EQ(::pipe(ready), 0);
  const pid_t child = ::fork();
  if (child == 0) {
    const auto lock = files_.try_lock(path("lock"), "child");
    const char answer = lock ? 'y' : 'n';
    if (::write(ready[1], &answer, 1) != 1) ::_exit(1);
    for (;;) ::pause();
  }
  char answer = ' ';
  ASSERT_EQ(::read(ready[0], &answer, 1), 1);
  EXPECT_EQ(answer, 'y');
  EXPECT_FALSE(files_.try_lock(path("lock"), "parent"));
  ::kill(child, SIGKILL);
  ::waitpid(child, nullptr, 0);
  EXPECT_TRUE(files_.try_lock(path("lock"), "parent"));
  ::close(ready[0]);
  ::close(ready[1]);
}

TEST_F(FileSystemTest, AStartedProgramInheritsNoLock) {
  const auto lock = files_.try_lock(path("lock"), "");
  const auto file = files_.open(path("lock"));
  int kept_open = 0;
  for (const auto& entry : std::filesystem::directory_iterator("/proc/self/fd")) {
    std::error_code gone;
    if (std::filesystem::read_symlink(entry.path(), gone) != path("lock")) continue;
    const int flags = ::fcntl(std::stoi(entry.path().filename()), F_GETFD);
    kept_open += (flags & FD_CLOEXEC) == 0;
  }
  EXPECT_EQ(kept_open, 0);
}

}  // namespace
}  // namespace rekindle
