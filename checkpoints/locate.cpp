// SPDX-License-Identifier: Apache-2.0
#include "checkpoints/locate.h"

#include "checkpoints/checkpoint.h"
#include "checkpoints/weight_files.h"
#include "core/error.h"
#include "core/names.h"

namespace rekindle {

namespace fs = std::filesystem;

bool looks_like_checkpoint(FileSystem& files, const fs::path& folder) {
  if (!files.is_directory(folder)) return false;
  const std::string name = (folder.has_filename() ? folder : folder.parent_path()).filename().string();
  return files.exists(folder / names::kManifest) || files.exists(folder / names::kState) ||
         names::step_in(name) >= 0;
}

Place locate(FileSystem& files, const fs::path& path) {
  if (!files.exists(path)) throw bad_input("there is nothing", path.string());
  if (!files.is_directory(path)) {
    refuse_pickle(files, path);
    return {Place::Kind::kWeights, path};
  }
  if (looks_like_checkpoint(files, path)) return {Place::Kind::kCheckpoint, path};
  for (const fs::path& link : {path / names::kPromoted, path / names::kCheckpoints / names::kLatest}) {
    if (files.exists(link)) return {Place::Kind::kCheckpoint, link};
  }
  if (const fs::path weights = weights_in(files, path); !weights.empty())
    return {Place::Kind::kWeights, weights};
  for (const char* pickle : {"pytorch_model.bin", "pytorch_model.bin.index.json", "model.pt", "model.pth"}) {
    if (files.exists(path / pickle)) refuse_pickle(files, path / pickle);
  }
  throw bad_input(
      "this folder is no line, run, checkpoint or model", path.string(),
      "one of manifest.json, promoted, checkpoints/latest or model.safetensors was expected in it");
}

std::vector<fs::path> runs_in(FileSystem& files, const fs::path& folder) {
  std::vector<fs::path> runs;
  if (!files.is_directory(folder)) return runs;
  for (const std::string& name : files.list(folder)) {
    const fs::path run = folder / name;
    if (!files.read_link(run) && files.exists(run / names::kResolvedJob)) runs.push_back(run);
  }
  return runs;
}

std::vector<fs::path> generations_in(FileSystem& files, const fs::path& run) {
  std::vector<fs::path> generations;
  const fs::path folder = run / names::kCheckpoints;
  if (!files.exists(folder)) return generations;
  for (const std::string& name : files.list(folder)) {
    if (names::step_in(name) >= 0) generations.push_back(folder / name);
  }
  return generations;
}

}  // namespace rekindle
