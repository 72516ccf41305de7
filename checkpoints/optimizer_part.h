// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "checkpoints/manifest.h"
#include "core/flat_layout.h"
#include "core/safetensors.h"

namespace rekindle {

// The stretch of one parameter's moment ("momentum", "exp_avg") that a rank owns. The caller keeps the bytes
// alive.
struct ShardView {
  std::string parameter, moment;
  int64_t offset = 0;                // of its first element within the parameter
  int64_t length = 0;                // elements
  std::span<const std::byte> bytes;  // F32: 4 a piece
};

// Writes and syncs one rank's part: a safetensors file of flat F32 tensors, each with parameter, moment,
// offset and length in the metadata under its own name. Equal shards give equal bytes. Returns the digest of
// the file.
std::string write_optimizer_part(FileSystem& files, const std::filesystem::path& path,
                                 std::span<const ShardView> shards);

// The moments of a checkpoint as whole parameters, whoever saved which stretch: any number of ranks reads
// what any number wrote. Keeps one file open for each part. Not collective; reads may come from several
// threads.
class OptimizerParts {
 public:
  // Throws bad_input for parts that are malformed or overlap.
  OptimizerParts(FileSystem& files, const std::filesystem::path& checkpoint, const Manifest& manifest);

  std::vector<std::string> moments(const std::string& parameter) const;  // sorted; empty: nothing was saved

  std::vector<std::string> moments() const;  // of any parameter

  // Reads the elements `range` of a parameter's moment into `into`, 4 bytes each.
  // Throws bad_input that names what no part holds.
  void read(const std::string& parameter, const std::string& moment, Range range,
            std::span<std::byte> into) const;

 private:
  struct Piece {
    Range range;
    const safetensors::Reader* part;
    const safetensors::TensorInfo* tensor;
  };
  using Key = std::pair<std::string, std::string>;  // parameter, moment

  void add(const safetensors::Reader& part, const std::string& where);

  std::string where_;
  std::vector<std::unique_ptr<safetensors::Reader>> parts_;
  std::map<Key, std::vector<Piece>> pieces_;  // each list in the order of its ranges
};

}  // namespace rekindle
