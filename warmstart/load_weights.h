// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "comm/communicator.h"
#include "core/file_system.h"
#include "warmstart/matching.h"
#include "warmstart/named_state.h"

namespace rekindle {

// What became of every tensor of the model, and of every one in the file. Shares are of the model's
// parameters' elements, but for `unused`.
struct LoadReport {
  struct Renamed {
    std::string from, to;
  };
  std::vector<std::string> loaded;     // by the model's names; the three below are among them
  std::vector<Renamed> renamed;        // by a rule
  std::vector<std::string> resized;    // heads that grew
  std::vector<std::string> converted;  // from another type
  std::vector<std::string> fresh;      // not in the file, or left out
  std::vector<std::string> unused;     // not in the model, or left out; by the file's names
  int64_t elements = 0, loaded_elements = 0, renamed_elements = 0, resized_elements = 0;
  int64_t file_elements = 0, unused_elements = 0;
  uint64_t bytes = 0;  // read and sent
  double seconds = 0;

  double loaded_share() const { return share(loaded_elements, elements); }
  double renamed_share() const { return share(renamed_elements, elements); }
  double resized_share() const { return share(resized_elements, elements); }
  double unused_share() const { return share(unused_elements, file_elements); }
  double gb_per_s() const { return seconds == 0 ? 0 : static_cast<double>(bytes) / seconds / 1e9; }
  std::string text() const;  // a line or a few, for people

 private:
  static double share(int64_t part, int64_t all) {
    return all == 0 ? 0 : static_cast<double>(part) / static_cast<double>(all);
  }
};

// Where weights come from.
struct WeightSource {
  std::filesystem::path path;  // as WeightFiles takes it
  std::string digest;          // as digest_of_weights gives it; empty: not known, and not checked
};

// Of the parameters that are loaded.
enum class Copies {
  kShared,   // as the communicator has it: one that all ranks of a node share, where it shares memory
  kOneEach,  // each rank has one of its own
};

// Collective. Rank 0 reads the source, once and from front to back, and matches its tensors to the model's;
// what is read is sent while the next is read, and goes straight to where it belongs (options.read: or every
// copy of the model is read on its own). Afterwards all ranks hold the same bytes, which is checked by
// digest, and the source was what its digest says. What the file lacks stays as it is.
//
// Throws bad_input, on every rank: before any weight is touched, for what match() refuses and where less than
// `options.min_loaded` of the parameters' elements would come from the file; afterwards, for a source that is
// damaged. The report is filled in on rank 0 alone.
LoadReport load_weights(Communicator& communicator, FileSystem& files, const WeightSource& source,
                        const NamedState& state, const WarmStartOptions& options,
                        const HeadClasses& classes = {}, Copies copies = Copies::kShared);

// What load_weights would do. Reads only the headers, touches nothing, and does not throw for a share that is
// too small.
LoadReport plan_load(FileSystem& files, const std::filesystem::path& source, const NamedState& state,
                     const WarmStartOptions& options, const HeadClasses& classes = {});

// Where a parameter came from, so that what else is kept of it can follow.
struct CarriedFrom {
  std::string name;           // in the file
  std::vector<int64_t> rows;  // Match::rows
};
using Carried = std::map<std::string, CarriedFrom>;  // by the model's names

// Reads only the headers.
Carried carried_by_load(FileSystem& files, const std::filesystem::path& source, const NamedState& state,
                        const WarmStartOptions& options, const HeadClasses& classes = {});

}  // namespace rekindle
