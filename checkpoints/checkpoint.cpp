// SPDX-License-Identifier: Apache-2.0
#include "checkpoints/checkpoint.h"

#include <algorithm>
#include <array>

#include "core/digest.h"
#include "core/error.h"
#include "core/json.h"
#include "core/names.h"

namespace rekindle {
namespace {

using Path = std::filesystem::path;

constexpr uint64_t kMostDocumentBytes = 64u << 20;
constexpr std::array<const char*, 3> kDocuments = {names::kState, names::kLineage, names::kModelCard};

bool is_document(const std::string& name) {
  return std::ranges::find(kDocuments, name) != kDocuments.end();
}

Path follow_links(FileSystem& files, Path path) {
  if (!path.has_filename()) path = path.parent_path();  // "latest/" is a directory and no longer a link
  for (int links = 0; const auto target = files.read_link(path); ++links) {
    if (links == 16) throw bad_input("the links go round in a circle", path.string());
    path = path.parent_path() / *target;
  }
  return path;
}

// The directory that holds the manifest, or an error that says what stands there instead.
Path require_checkpoint(FileSystem& files, const Path& given) {
  const Path path = follow_links(files, given);
  if (!files.exists(path)) throw bad_input("there is no checkpoint", given.string());
  if (!files.is_directory(path)) {
    refuse_pickle(files, path);
    throw bad_input("a file, and not a checkpoint", given.string(),
                    "a checkpoint is a directory with a manifest.json");
  }
  if (files.exists(path / names::kManifest)) return path;
  const Path inner = path / names::kCheckpoints / names::kLatest;
  throw bad_input("not a checkpoint: it has no manifest.json", given.string(),
                  files.exists(inner) ? "this is a run; its newest checkpoint is " + inner.string() : "");
}

// What is wrong with one file, or nothing.
std::string damage_of(FileSystem& files, const Path& path, const FileRecord& expected, bool with_digest,
                      bool from_disk) {
  try {
    if (files.read_link(path)) return "it is a link";
    if (!files.exists(path)) return "it is missing";
    const uint64_t bytes = files.open(path)->size();
    if (bytes != expected.bytes) {
      return "it has " + std::to_string(bytes) + " bytes, the manifest says " +
             std::to_string(expected.bytes);
    }
    if (!with_digest || digest_of_file(files, path, from_disk) == expected.digest) return "";
    return "its bytes do not have the digest that the manifest says";
  } catch (const Error& error) {
    return error.summary();
  }
}

nlohmann::json read_document(FileSystem& files, const Path& path) {
  return parse_json(read_text(files, path, kMostDocumentBytes), path.string());
}

FileRecord write_document(FileSystem& files, const Path& path, const nlohmann::json& json) {
  const std::string text = json.dump(2) + "\n";  // for people too
  write_synced(files, path, text);
  return {path.filename().string(), text.size(), digest_of(text)};
}

// By its first bytes: a zip archive, as torch.save makes, or a pickle of protocol 2 to 5. A header of
// safetensors may begin with the same two bytes, as its length, but then says '{' where that is over.
bool begins_as_pickle(FileSystem& files, const Path& path) {
  const auto file = files.open(path);
  std::string bytes(std::min<uint64_t>(9, file->size()), '\0');
  file->read_at(0, std::as_writable_bytes(std::span(bytes)));
  if (bytes.starts_with("PK\x03\x04")) return true;
  return bytes.size() > 1 && bytes[0] == '\x80' && bytes[1] >= 2 && bytes[1] <= 5 &&
         !(bytes.size() == 9 && bytes.ends_with(std::string("\0\0\0\0{", 5)));
}

}  // namespace

Checkpoint open_checkpoint(FileSystem& files, const Path& given, Verify verify) {
  const Path path = require_checkpoint(files, given);
  const Path manifest_path = path / names::kManifest;
  if (files.read_link(manifest_path))
    throw bad_input("the manifest is a link, which may lead anywhere", manifest_path.string(),
                    "take another checkpoint; this one cannot be trusted");
  Manifest manifest =
      Manifest::parse(read_text(files, manifest_path, kMostDocumentBytes), manifest_path.string());
  const std::vector<std::string> damage = find_damage(files, path, manifest, verify);
  if (!damage.empty()) {
    std::string text = "the checkpoint is damaged";
    for (const std::string& line : damage) text += (&line == &damage.front() ? ": " : "; ") + line;
    throw bad_input(text, path.string(), "take another checkpoint; this one cannot be trusted");
  }
  const auto document = [&](const char* name, auto parse) {
    return parse(read_document(files, path / name), (path / name).string());
  };
  return {path, std::move(manifest), document(names::kState, train_state_from_json),
          document(names::kLineage, lineage_from_json), document(names::kModelCard, model_card_from_json)};
}

std::vector<std::string> find_damage(FileSystem& files, const Path& directory, const Manifest& manifest,
                                     Verify verify, bool from_disk) {
  std::vector<std::string> damage;
  const auto require = [&](const std::string& name) {
    if (!manifest.find(name)) damage.push_back(name + ": the manifest does not list it");
  };
  require(names::kModel);
  for (const char* name : kDocuments) require(name);
  for (const FileRecord& file : manifest.files()) {
    const bool with_digest = verify == Verify::kAll || is_document(file.name);
    const std::string reason = damage_of(files, directory / file.name, file, with_digest, from_disk);
    if (!reason.empty()) damage.push_back(file.name + ": " + reason);
  }
  return damage;
}

void refuse_pickle(FileSystem& files, const Path& path) {
  constexpr std::array kExtensions = {".pt", ".pth", ".bin", ".ckpt", ".pkl", ".pickle"};
  constexpr std::string_view kShards = ".bin.index.json";
  const std::string name = path.filename().string();
  const bool shards = name.ends_with(kShards);
  const bool by_name = std::ranges::find(kExtensions, path.extension().string()) != kExtensions.end();
  if (!shards && !by_name && !begins_as_pickle(files, path)) return;
  const std::string stem = shards ? name.substr(0, name.size() - kShards.size()) : path.stem().string();
  const std::string load = ", map_location=\"cpu\", weights_only=True)";
  throw bad_input(
      "a pickle is not loaded: it can run any code that is in it", path.string(),
      "convert it once, where you trust it, with Python:\n" +
          (shards ? "    import glob, torch, safetensors.torch\n"
                    "    state = {k: v for f in sorted(glob.glob(\"" +
                        stem + "-*.bin\")) for k, v in torch.load(f" + load + ".items()}\n"
                  : "    import torch, safetensors.torch\n"
                    "    state = torch.load(\"" +
                        name + "\"" + load + "\n") +
          "    safetensors.torch.save_file({k: v.contiguous().clone() for k, v in state.items()}, \"" +
          (shards ? "model" : stem) + ".safetensors\")");
}

std::vector<FileRecord> write_documents(FileSystem& files, const Path& directory, const TrainState& state,
                                        const Lineage& lineage, const ModelCard& card) {
  return {write_document(files, directory / names::kState, to_json(state)),
          write_document(files, directory / names::kLineage, to_json(lineage)),
          write_document(files, directory / names::kModelCard, to_json(card))};
}

}  // namespace rekindle
