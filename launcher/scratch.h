// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <filesystem>

#include "launcher/child.h"
#include "launcher/compose.h"

namespace rekindle {

// Where Open MPI keeps the files of one run: its session and its shared memory, which it leaves behind when
// mpirun is killed. The folder goes when this object does, with all in it; what a launcher left that was
// itself killed goes when the next one starts. Not in /dev/shm, which containers keep too small for Open MPI
// to start; ours is the memory that matters, and it has no name.
class Scratch {
 public:
  Scratch();
  ~Scratch();
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;

  // `launch` with the settings that make Open MPI use it, but for those that the user has made.
  Launch apply_to(const Launch& launch) const;

 private:
  std::filesystem::path folder_;  // empty: none could be made, and Open MPI does as it likes
  Descriptor lock_;               // held for as long as the run lives
};

}  // namespace rekindle
