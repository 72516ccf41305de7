// SPDX-License-Identifier: Apache-2.0
#include "warmstart/parent.h"

#include "core/error.h"
#include "core/names.h"
#include "core/safetensors.h"

namespace rekindle {
namespace {

namespace fs = std::filesystem;

Parent from_checkpoint(FileSystem& files, const fs::path& path) {
  Checkpoint checkpoint = open_checkpoint(files, path);
  return {checkpoint.path / names::kModel, checkpoint.digest(), std::move(checkpoint)};
}

Parent from_weights(FileSystem& files, const fs::path& path) {
  safetensors::Reader check(files, path);  // a file of another format is named before anything else happens
  return {path, digest_of_file(files, path), std::nullopt};
}

}  // namespace

std::optional<Parent> find_parent(FileSystem& files, const std::string& from, const fs::path& line) {
  if (from == names::kPromoted) {
    if (line.empty()) {
      throw bad_input("there is no line whose promoted checkpoint could be taken", "warm_start.from",
                      "set run.line, or give warm_start.from a path");
    }
    const fs::path promoted = line / names::kPromoted;
    if (!files.read_link(promoted)) return std::nullopt;
    return from_checkpoint(files, promoted);
  }
  const fs::path path = from;
  if (!files.exists(path)) throw bad_input("there is nothing to start from", from, "check warm_start.from");
  if (!files.is_directory(path)) {
    refuse_pickle(files, path);
    return from_weights(files, path);
  }
  if (files.exists(path / names::kManifest)) return from_checkpoint(files, path);
  if (files.exists(path / names::kPromoted)) return from_checkpoint(files, path / names::kPromoted);
  const fs::path latest = path / names::kCheckpoints / names::kLatest;
  if (files.exists(latest)) return from_checkpoint(files, latest);
  if (files.exists(path / names::kModel)) return from_weights(files, path / names::kModel);
  throw bad_input(
      "this folder is no line, run, checkpoint or model", from,
      "one of manifest.json, promoted, checkpoints/latest or model.safetensors was expected in it");
}

}  // namespace rekindle
