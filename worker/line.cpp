// SPDX-License-Identifier: Apache-2.0
#include "worker/line.h"

#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <thread>

#include "core/error.h"
#include "core/log.h"
#include "core/names.h"
#include "core/text.h"
#include "worker/metrics_log.h"

namespace rekindle {
namespace {

namespace fs = std::filesystem;

std::string note() {
  char host[256] = {};
  gethostname(host, sizeof host - 1);
  return "process " + std::to_string(getpid()) + " on " + host;
}

bool is_run(FileSystem& files, const fs::path& directory) {
  return files.exists(directory / names::kResolvedJob);
}

bool is_done(FileSystem& files, const fs::path& directory) {
  return ends_done(files, directory / names::kMetrics);
}

[[noreturn]] void throw_live(FileSystem& files, const fs::path& what, const fs::path& lock) {
  const std::string holder = files.lock_note(lock);
  throw Error("'" + what.string() + "' is live" + (holder.empty() ? "" : ": it is held by " + holder),
              {lock.string(), "wait until it ends, or stop it: one run at a time", ExitCode::kFailed});
}

// The job that the run in `directory` runs; none where it cannot be told.
std::optional<Job> job_of_run(const fs::path& directory) {
  try {
    return read_job(directory / names::kResolvedJob);
  } catch (const Error&) {  // of another version, or cut off: then it is not the job at hand
    return std::nullopt;
  }
}

bool same_job(const std::optional<Job>& theirs, const Job& job) {
  return theirs && job_digest(*theirs) == job_digest(job);
}

// ": " and what differs, where that can be told.
std::string how_other(const std::optional<Job>& theirs, const Job& job) {
  const std::string difference = theirs ? difference_text(job, *theirs) : "";
  return difference.empty() ? "" : ": " + difference;
}

// The runs of a line, the newest first.
std::vector<fs::path> runs_of(FileSystem& files, const fs::path& line) {
  std::vector<fs::path> runs;
  for (const std::string& name : files.list(line)) {
    const fs::path path = line / name;
    if (!files.read_link(path) && files.is_directory(path) && is_run(files, path)) runs.push_back(path);
  }
  std::reverse(runs.begin(), runs.end());
  return runs;
}

}  // namespace

RunPlace::RunPlace(FileSystem& files, const Job& job)
    : files_(files), line_(job.run.line), directory_(job.run.directory) {
  line_.empty() ? look_into_directory(job) : look_into_line(job);
}

void RunPlace::look_into_line(const Job& job) {
  files_.create_directories(line_);
  const fs::path lock = line_ / names::kLineLock;
  line_lock_ = files_.try_lock(lock, note());
  if (!line_lock_) throw_live(files_, line_, lock);
  for (const fs::path& run : runs_of(files_, line_)) {
    if (is_done(files_, run)) continue;
    const std::optional<Job> theirs = job_of_run(run);
    if (same_job(theirs, job)) {
      directory_ = run;
      unfinished_ = true;
      lock_run(run);
      return say_where();
    }
    log_warning("'" + run.string() + "' is not finished, and is left: this job is another one" +
                how_other(theirs, job));
  }
}

void RunPlace::look_into_directory(const Job& job) {
  if (!files_.exists(directory_)) return;
  lock_run(directory_);
  if (!is_run(files_, directory_)) {
    for (const std::string& name : files_.list(directory_)) {
      if (name == names::kRunLock) continue;
      throw bad_input("the run directory holds other things", (directory_ / name).string(),
                      "give run.directory a new or an empty folder");
    }
    return;
  }
  const std::optional<Job> theirs = job_of_run(directory_);
  if (!same_job(theirs, job)) {
    throw bad_input(
        "the run in this directory belongs to another job" + how_other(theirs, job), directory_.string(),
        "only duration, intervals, logging and workers may change; give run.directory another folder");
  }
  unfinished_ = true;
  finished_ = is_done(files_, directory_) && theirs->run.duration == job.run.duration;
}

void RunPlace::lock_run(const fs::path& directory) {
  run_lock_ = files_.try_lock(directory / names::kRunLock, note());
  if (!run_lock_) throw_live(files_, directory, directory / names::kRunLock);
}

fs::path RunPlace::open() {
  if (unfinished_) return directory_;
  if (line_.empty()) {
    files_.create_directories(directory_);
  } else {
    // Two runs that start within a second would have one name: the later one waits for its own.
    while (directory_ = line_ / utc_stamp(unix_seconds()), !files_.create_directory(directory_)) {
      std::this_thread::sleep_for(std::chrono::milliseconds(50));
    }
  }
  if (!run_lock_) {
    lock_run(directory_);
    if (is_run(files_, directory_))
      throw_live(files_, directory_, directory_ / names::kRunLock);  // begun meanwhile
  }
  say_where();
  return directory_;
}

// Whoever finds the line locked reads which run holds it.
void RunPlace::say_where() {
  if (line_.empty()) return;
  const std::string text = note() + ", run " + directory_.filename().string();
  files_.create(line_ / names::kLineLock)->append(std::as_bytes(std::span(text)));
}

bool promote(FileSystem& files, const fs::path& line, const Checkpoint& checkpoint,
             const std::string& compared) {
  const fs::path link = line / names::kPromoted;
  if (files.read_link(link)) {
    const std::string serves = open_checkpoint(files, link, Verify::kDocuments).digest();
    if (serves != compared && serves != checkpoint.digest()) return false;
  }
  replace_link(files, link, fs::relative(checkpoint.path, line).string());
  return true;
}

}  // namespace rekindle
