// SPDX-License-Identifier: Apache-2.0
#include "checkpoints/weight_files.h"

#include <algorithm>
#include <map>

#include "checkpoints/fields.h"
#include "core/digest.h"
#include "core/error.h"
#include "core/json.h"
#include "core/names.h"

namespace rekindle {
namespace {

namespace fs = std::filesystem;

bool is_index(const fs::path& path) {
  return path.extension() == ".json";
}

Error bad_index(const std::string& reason, const fs::path& path) {
  return bad_input("bad index of shards: " + reason, path.string(),
                   "copy or download the folder again, all its files");
}

// The shard of every tensor, as the index has it.
std::map<std::string, std::string> weight_map(FileSystem& files, const fs::path& path) {
  const nlohmann::json index = parse_json(read_text(files, path), path.string(), 4);
  const nlohmann::json entries = Fields(index, path.string()).object("weight_map");
  std::map<std::string, std::string> shard_of;
  for (const auto& [tensor, shard] : entries.items()) {
    if (!shard.is_string()) throw bad_index("the shard of tensor \"" + tensor + "\" is not a text", path);
    const std::string name = shard.get<std::string>();
    if (name.empty() || name.front() == '.' || name.find('/') != std::string::npos) {
      throw bad_index("tensor \"" + tensor + "\" is in \"" + name + "\", which is no file of this folder",
                      path);
    }
    shard_of[tensor] = name;
  }
  if (shard_of.empty()) throw bad_index("it names no tensor", path);
  return shard_of;
}

}  // namespace

WeightFiles::WeightFiles(FileSystem& files, const fs::path& path) : path_(path) {
  is_index(path) ? open_index(files) : open(files, path);
}

void WeightFiles::open(FileSystem& files, const fs::path& path) {
  shards_.push_back({path, std::make_unique<safetensors::Reader>(files, path)});
  for (const safetensors::TensorInfo& info : shards_.back().reader->tensors())
    tensors_.push_back({&info, shards_.size() - 1});
}

void WeightFiles::open_index(FileSystem& files) {
  std::map<std::string, std::string> missing = weight_map(files, path_);
  std::vector<std::string> names;
  for (const auto& [tensor, shard] : missing) names.push_back(shard);
  std::ranges::sort(names);
  names.erase(std::ranges::unique(names).begin(), names.end());
  for (const std::string& name : names) open(files, path_.parent_path() / name);
  for (const Tensor& tensor : tensors_) {
    const std::string shard = shards_[tensor.shard].path.filename().string();
    const auto named = missing.find(tensor.info->name);
    if (named == missing.end() || named->second != shard) {
      throw bad_index(
          "\"" + shard + "\" holds tensor \"" + tensor.info->name + "\", which the index does not name there",
          path_);
    }
    missing.erase(named);
  }
  if (!missing.empty()) {
    throw bad_index("tensor \"" + missing.begin()->first + "\" is not in \"" + missing.begin()->second + "\"",
                    path_);
  }
}

std::string digest_of_weights(FileSystem& files, const fs::path& path) {
  const WeightFiles weights(files, path);
  std::vector<std::string> digests;
  for (const WeightFiles::Shard& shard : weights.shards())
    digests.push_back(digest_of_file(files, shard.path));
  return digest_of_weights(weights, digests);
}

std::string digest_of_weights(const WeightFiles& weights, const std::vector<std::string>& shard_digests) {
  if (!is_index(weights.path())) return shard_digests.front();
  Digest digest;
  for (size_t i = 0; i < shard_digests.size(); ++i) {
    digest.update(weights.shards()[i].path.filename().string()).update("\n");
    digest.update(shard_digests[i]).update("\n");
  }
  return digest.hex();
}

fs::path weights_in(FileSystem& files, const fs::path& folder) {
  for (const char* name : {names::kModel, names::kModelIndex}) {
    if (files.exists(folder / name)) return folder / name;
  }
  return {};
}

}  // namespace rekindle
