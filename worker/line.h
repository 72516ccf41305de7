// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <filesystem>
#include <memory>
#include <string>

#include "checkpoints/checkpoint.h"
#include "core/file_system.h"
#include "job/job.h"

namespace rekindle {

// Where a run lives, and the locks that make it the only one there. A line is a folder of runs of one model;
// a run outside any line has a directory of its own. For rank 0 alone; the locks last as long as this object.
class RunPlace {
 public:
  // Takes the line's lock, or that of the run's own directory if it is there. Throws Error (1) that names the
  // run that is live. An unfinished run is taken up where its job is the same; in a line another one is named
  // in the log and left, in a directory of its own it is an error (78).
  RunPlace(FileSystem& files, const Job& job);

  bool unfinished() const { return unfinished_; }  // an earlier run is taken up
  bool finished() const { return finished_; }      // the run's own directory holds this very job, done

  const std::filesystem::path& directory() const { return directory_; }  // of the run that is taken up

  // Makes the directory of a new run, named by its UTC start where it is in a line, and locks it.
  // Returns it; for a run that is taken up, as it is.
  std::filesystem::path open();

 private:
  void look_into_line(const Job& job);
  void look_into_directory(const Job& job);
  void lock_run(const std::filesystem::path& directory);
  void say_where();

  FileSystem& files_;
  std::filesystem::path line_, directory_;
  bool unfinished_ = false, finished_ = false;
  std::unique_ptr<FileLock> line_lock_, run_lock_;
};

// Makes `checkpoint` the one that the line serves, if the line serves nothing yet, the checkpoint with digest
// `compared`, which it was compared with, or this very one. False, and nothing is moved, where it serves
// another one.
bool promote(FileSystem& files, const std::filesystem::path& line, const Checkpoint& checkpoint,
             const std::string& compared);

}  // namespace rekindle
