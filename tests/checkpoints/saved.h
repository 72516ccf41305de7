// SPDX-License-Identifier: Apache-2.0
// A small checkpoint for the tests of this folder, made of two ranks' parts.
#pragma once

#include <string>
#include <vector>

#include "checkpoints/optimizer_part.h"
#include "checkpoints/store.h"
#include "core/digest.h"
#include "core/names.h"
#include "core/safetensors.h"

namespace rekindle {

inline TrainState some_state(int64_t step) {
  TrainState state;
  state.progress = {step * 64, step, 0.1 * static_cast<double>(step)};
  state.seed = 7;
  state.optimizer_steps = step;
  state.worlds = {{0, 2}};
  state.job_digest = digest_of("job");
  state.schedule.origin = {640, 10, 1.5};
  state.schedule.start_lr = 0.01;
  state.schedule.lr = 0.05;
  state.schedule.warmup_end = Progress{320, 5, 0.75};
  state.schedule.reached = 0.625;
  state.schedule.peak_factor = 0.5;
  state.missed_steps = {{"head.weight", 3}};
  state.schedule.warmup = {0.7, 2, 0};
  state.schedule.plateau = {{}, 1, 3};
  state.schedule.loss = {1.0 / 3, 0.5};
  state.schedule.noise = {12.5, 0.25};
  state.schedule.signal = {-0.5, 0.25};
  state.schedule.plateau_factor = 0.1;
  state.schedule.rollback_factor = 0.5;
  state.schedule.rollbacks = 1;
  state.loss_scale = {4096, 17};
  state.averaged = true;
  return state;
}

inline Lineage some_lineage() {
  Lineage lineage;
  lineage.parent = digest_of("parent");
  lineage.job = digest_of("job");
  lineage.increments = {{digest_of("day 1"), 1000, 5000}, {digest_of("day 2"), 500, 2500}};
  lineage.validation = 0.05;
  lineage.test = 0.1;
  lineage.held_out_test = 0.05;
  lineage.build = "0.1.0";
  return lineage;
}

inline ModelCard some_card() {
  ModelCard card;
  card.model = "mlp";
  card.options = {{"hidden", {100, 100}}, {"dropout", 0.1}, {"batch_norm", false}};
  card.classes = {"0", "1", "ten"};
  card.sample_shape = {1, 28, 28};
  card.data_kind = "idx";
  card.mean = 0.286;
  card.std = 0.353;
  return card;
}

// What all ranks write into `directory`; `value` stands in the weights and in the moments.
inline std::vector<FileRecord> write_files(FileSystem& files, const std::filesystem::path& directory,
                                           int64_t step, float value) {
  std::vector<FileRecord> records =
      write_documents(files, directory, some_state(step), some_lineage(), some_card());
  const std::vector<float> weights(100, value);
  const auto bytes = std::as_bytes(std::span(weights));
  const auto model = directory / names::kModel;
  records.push_back(record_of(
      files, model, safetensors::write(files, model, {{"w", safetensors::DType::kF32, {100}, bytes}})));
  for (int rank = 0; rank < 2; ++rank) {
    const std::vector<ShardView> shards = {{"w", "momentum", rank * 50, 50, bytes.first(200)}};
    const auto part = directory / names::optimizer_part(rank, 2);
    records.push_back(record_of(files, part, write_optimizer_part(files, part, shards)));
  }
  return records;
}

inline Published save(FileSystem& files, CheckpointStore& store, int64_t step, float value = 1,
                      const std::string& attempt = "a", bool best = false) {
  const auto directory = store.prepare(step, attempt);
  return store.publish(step, attempt, write_files(files, directory, step, value), best);
}

inline float first_weight(FileSystem& files, const Checkpoint& checkpoint) {
  const safetensors::Reader reader(files, checkpoint.path / names::kModel);
  float value = 0;
  reader.read(*reader.find("w"), 0, std::as_writable_bytes(std::span(&value, 1)));
  return value;
}

inline void flip(const std::filesystem::path& path, uint64_t offset) {
  FileSystem& files = posix_file_system();
  std::string text = read_text(files, path);
  text.at(offset) = static_cast<char>(text.at(offset) ^ 0x10);
  write_synced(files, path, text);
}

}  // namespace rekindle
