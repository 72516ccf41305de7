// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "core/safetensors.h"

namespace rekindle {

// The weights of a model as they lie on disk: one safetensors file, or the shards that an index names
// (model.safetensors.index.json, as Hugging Face lays out large models). Keeps its files open.
class WeightFiles {
 public:
  struct Tensor {
    const safetensors::TensorInfo* info;
    size_t shard;  // that holds it
  };
  struct Shard {
    std::filesystem::path path;
    std::unique_ptr<safetensors::Reader> reader;
  };

  // `path` is a safetensors file or an index. Throws bad_input for an index that leads out of its folder, and
  // where index and shards do not name the same tensors.
  WeightFiles(FileSystem& files, const std::filesystem::path& path);

  const std::filesystem::path& path() const { return path_; }
  const std::vector<Shard>& shards() const { return shards_; }
  const std::vector<Tensor>& tensors() const { return tensors_; }  // shard by shard, in the order of bytes

 private:
  void open(FileSystem& files, const std::filesystem::path& path);
  void open_index(FileSystem& files);

  std::filesystem::path path_;
  std::vector<Shard> shards_;
  std::vector<Tensor> tensors_;
};

// Names the weights at `path` by content: the digest of the file; for an index, of its shards' names and
// digests.
std::string digest_of_weights(FileSystem& files, const std::filesystem::path& path);

// The same from the digests of the shards, in their order.
std::string digest_of_weights(const WeightFiles& weights, const std::vector<std::string>& shard_digests);

// The file in a folder that WeightFiles takes, or an empty path where it holds none.
std::filesystem::path weights_in(FileSystem& files, const std::filesystem::path& folder);

}  // namespace rekindle
