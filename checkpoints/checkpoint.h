// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "checkpoints/lineage.h"
#include "checkpoints/manifest.h"
#include "checkpoints/model_card.h"
#include "checkpoints/train_state.h"

namespace rekindle {

// A checkpoint that was opened: a directory whose files are those of its manifest. Plain data, nothing stays
// open.
struct Checkpoint {
  std::filesystem::path path;  // links such as `latest` followed, so that it stays what it is when they move
  Manifest manifest;
  TrainState state;
  Lineage lineage;
  ModelCard card;

  const std::string& digest() const { return manifest.digest(); }
};

enum class Verify {
  kAll,        // the digest of every file
  kDocuments,  // of the JSON files alone, for one who takes the digest of model.safetensors while reading it
               // and compares it with the manifest's; sizes are checked of all
};

// Opens and verifies. Throws bad_input where there is no checkpoint, or one that does not verify: all files
// that are wrong are named.
Checkpoint open_checkpoint(FileSystem& files, const std::filesystem::path& path,
                           Verify verify = Verify::kAll);

// What is wrong with the files of `directory`, one line each; empty where they are what the manifest says.
// From the disk: the page cache is passed over, so that it is what a restart would find.
std::vector<std::string> find_damage(FileSystem& files, const std::filesystem::path& directory,
                                     const Manifest& manifest, Verify verify = Verify::kAll,
                                     bool from_disk = false);

// Throws bad_input where `path` is a pickle (.pt, .pth, .bin, .ckpt, .pkl, or one by its first bytes):
// loading one runs whatever code is in it. The hint is the Python that converts it. Returns where it is
// anything else.
void refuse_pickle(FileSystem& files, const std::filesystem::path& path);

// Writes and syncs state.json, lineage.json and model.json.
std::vector<FileRecord> write_documents(FileSystem& files, const std::filesystem::path& directory,
                                        const TrainState& state, const Lineage& lineage,
                                        const ModelCard& card);

}  // namespace rekindle
