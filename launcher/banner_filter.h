// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace rekindle {

// What Open MPI says of the first rank that ended badly. It always says which one it was where that rank had
// called MPI_Init; of the others only sometimes (measured: half the time).
struct RankEnd {
  int rank = 0;
  int signal = 0;           // 0: it was not killed
  std::optional<int> code;  // its exit code, where it is told
};

// Takes Open MPI's own banners about how a run ended (blocks between lines of dashes, help-orterun.txt and
// help-mpi-api.txt of Open MPI 4.1) out of a stream of text and keeps what they say. All other text passes
// untouched, as soon as its line is complete; a line of dashes waits for the next one, which tells whether it
// begins a banner.
class BannerFilter {
 public:
  std::string take(std::string_view bytes);  // returns what may be passed on now
  std::string finish();                      // what was held back at the end of the stream

  const std::optional<RankEnd>& first_end() const { return end_; }

 private:
  std::string line(std::string line);
  std::string release();
  void learn();

  std::string partial_;            // a line that is not complete yet
  std::vector<std::string> held_;  // a line of dashes, and the banner that it began
  bool dropped_ = false;           // whether the line before was
  std::optional<RankEnd> end_;
};

}  // namespace rekindle
