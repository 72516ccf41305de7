// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "comm/communicator.h"
#include "core/file_system.h"
#include "warmstart/named_state.h"

namespace rekindle {

// What became of every tensor of the model, and of every one in the file.
struct LoadReport {
  std::vector<std::string> loaded, fresh, unused;  // fresh: not in the file; unused: not in the model
  int64_t elements = 0, loaded_elements = 0;       // of the model's parameters
  int64_t file_elements = 0, unused_elements = 0;  // of the file's tensors
  uint64_t bytes = 0;                              // read and sent
  double seconds = 0;

  double loaded_share() const { return elements == 0 ? 0 : static_cast<double>(loaded_elements) / elements; }
  double unused_share() const {
    return file_elements == 0 ? 0 : static_cast<double>(unused_elements) / file_elements;
  }
  double gb_per_s() const { return seconds == 0 ? 0 : static_cast<double>(bytes) / seconds / 1e9; }
  std::string text() const;  // a line or a few, for people
};

// Collective. Rank 0 alone reads `file` (the others need no file system), matches its tensors to the model's
// by name and broadcasts; afterwards all ranks hold the same bytes, which is checked by digest. What the file
// lacks stays as it is. Throws bad_input, on every rank and before any weight is touched: for a tensor of
// another shape or type, and where less than `min_loaded` of the parameters' elements would come from the
// file.
//
// `flat` is the line of memory that the parameters are views of. The report is filled in on rank 0 alone.
LoadReport load_weights(Communicator& communicator, FileSystem& files, const std::filesystem::path& file,
                        const NamedState& state, at::Tensor flat, double min_loaded);

// For one rank alone: the same without a broadcast or a floor. For evaluating a parent.
void read_weights(FileSystem& files, const std::filesystem::path& file, const NamedState& state);

}  // namespace rekindle
