// SPDX-License-Identifier: Apache-2.0
#include <cstdio>
#include <nlohmann/json.hpp>

#include "checkpoints/checkpoint.h"
#include "checkpoints/locate.h"
#include "checkpoints/weight_files.h"
#include "core/names.h"
#include "core/text.h"
#include "launcher/look.h"
#include "launcher/table.h"

namespace rekindle {
namespace {

using nlohmann::ordered_json;
namespace fs = std::filesystem;

std::string shape_text(const std::vector<int64_t>& shape) {
  std::string text;
  for (const int64_t extent : shape) text += (text.empty() ? "" : " x ") + std::to_string(extent);
  return text.empty() ? "scalar" : text;
}

ordered_json tensors_of(const WeightFiles& weights) {
  ordered_json list = ordered_json::array();
  for (const WeightFiles::Tensor& tensor : weights.tensors()) {
    list.push_back({{"name", tensor.info->name},
                    {"dtype", name_of(tensor.info->dtype)},
                    {"shape", tensor.info->shape},
                    {"bytes", tensor.info->bytes()}});
  }
  return list;
}

int64_t elements_of(const WeightFiles& weights) {
  int64_t sum = 0;
  for (const WeightFiles::Tensor& tensor : weights.tensors()) sum += tensor.info->elements();
  return sum;
}

ordered_json describe(const Checkpoint& checkpoint) {
  ordered_json worlds = ordered_json::array();
  for (const WorldSpan& span : checkpoint.state.worlds)
    worlds.push_back({{"from_step", span.from_step}, {"workers", span.world}});
  ordered_json files = ordered_json::array();
  for (const FileRecord& file : checkpoint.manifest.files())
    files.push_back({{"name", file.name}, {"bytes", file.bytes}, {"digest", file.digest}});
  return {{"path", checkpoint.path.string()},
          {"digest", checkpoint.digest()},
          {"step", checkpoint.state.progress.step},
          {"samples", checkpoint.state.progress.samples},
          {"seconds", checkpoint.state.progress.seconds},
          {"worlds", worlds},
          {"seed", checkpoint.state.seed},
          {"averaged", checkpoint.state.averaged},
          {"model", to_json(checkpoint.card)},
          {"lineage", to_json(checkpoint.lineage)},
          {"files", files}};
}

void print_tensors(const WeightFiles& weights) {
  std::vector<std::vector<std::string>> rows{{"tensor", "type", "shape", "size"}};
  for (const WeightFiles::Tensor& tensor : weights.tensors()) {
    rows.push_back({tensor.info->name, std::string(name_of(tensor.info->dtype)),
                    shape_text(tensor.info->shape), bytes_text(tensor.info->bytes())});
  }
  std::printf("\n%s%s numbers in %zu tensors\n", table(rows).c_str(), grouped(elements_of(weights)).c_str(),
              weights.tensors().size());
}

void print(const Checkpoint& checkpoint) {
  const Progress& progress = checkpoint.state.progress;
  std::string workers;
  for (const WorldSpan& span : checkpoint.state.worlds) {
    workers += (workers.empty() ? "" : ", then ") + std::to_string(span.world);
    if (span.from_step > 0) workers += " from step " + std::to_string(span.from_step);
  }
  const Lineage& lineage = checkpoint.lineage;
  std::vector<std::vector<std::string>> rows{
      {"checkpoint", checkpoint.path.string()},
      {"digest", checkpoint.digest()},
      {"trained", grouped(progress.step) + " steps, " + grouped(progress.samples) + " samples, " +
                      short_number(progress.seconds) + " s"},
      {"workers", workers},
      {"weights", checkpoint.state.averaged ? "averaged over steps" : "as trained"},
      {"model", checkpoint.card.model + " " + checkpoint.card.options.dump()},
      {"classes", std::to_string(checkpoint.card.classes.size())},
      {"preprocessing",
       "mean " + short_number(checkpoint.card.mean) + ", std " + short_number(checkpoint.card.std)},
      {"parent", lineage.parent.empty() ? "none" : lineage.parent},
      {"job", lineage.job},
      {"build", lineage.build}};
  if (!lineage.origin.base_model.empty()) rows.push_back({"base model", lineage.origin.base_model});
  for (const IncrementRecord& record : lineage.increments) {
    rows.push_back({"increment", record.digest + ", " + grouped(record.samples) + " samples, " +
                                     grouped(record.seen) + " trained on"});
  }
  for (const FileRecord& file : checkpoint.manifest.files())
    rows.push_back({"file", file.name + ", " + bytes_text(file.bytes)});
  std::fputs(table(rows).c_str(), stdout);
}

std::vector<fs::path> all_checkpoints(FileSystem& files, const fs::path& path) {
  std::vector<fs::path> found;
  for (const fs::path& run : runs_in(files, path)) {
    for (const fs::path& generation : generations_in(files, run)) found.push_back(generation);
  }
  if (found.empty() && files.exists(path) && !looks_like_checkpoint(files, path))
    found = generations_in(files, path);
  return found;
}

}  // namespace

ExitCode inspect(FileSystem& files, const fs::path& path, bool json) {
  const Place place = locate(files, path);
  const bool is_checkpoint = place.kind == Place::Kind::kCheckpoint;
  const WeightFiles weights(files, is_checkpoint ? place.path / names::kModel : place.path);
  if (is_checkpoint) {
    const Checkpoint checkpoint = open_checkpoint(files, place.path, Verify::kDocuments);
    if (json) {
      ordered_json answer = describe(checkpoint);
      answer["tensors"] = tensors_of(weights);
      std::puts(answer.dump(2).c_str());
      return ExitCode::kDone;
    }
    print(checkpoint);
  } else if (json) {
    std::puts(
        ordered_json({{"path", place.path.string()}, {"tensors", tensors_of(weights)}}).dump(2).c_str());
    return ExitCode::kDone;
  } else {
    std::printf("weights %s\n", place.path.c_str());
  }
  print_tensors(weights);
  return ExitCode::kDone;
}

ExitCode verify(FileSystem& files, const fs::path& path, bool json) {
  std::vector<fs::path> checkpoints = all_checkpoints(files, path);
  if (checkpoints.empty()) {
    const Place place = locate(files, path);
    if (place.kind == Place::Kind::kWeights) {
      throw bad_input("weights alone, which nothing says what they should be", place.path.string(),
                      "a checkpoint has a manifest; rekindle inspect shows what the file holds");
    }
    checkpoints.push_back(place.path);
  }
  ordered_json list = ordered_json::array();
  bool good = true;
  for (const fs::path& checkpoint : checkpoints) {
    ordered_json entry{{"path", checkpoint.string()}, {"ok", true}};
    std::string said;
    try {
      const Checkpoint opened = open_checkpoint(files, checkpoint);
      entry["digest"] = opened.digest();
      entry["bytes"] = opened.manifest.bytes();
      said = "whole, " + bytes_text(opened.manifest.bytes()) + ", " + opened.digest();
    } catch (const Error& error) {
      entry["ok"] = good = false;
      entry["damage"] = said = error.summary() + " (" + error.details().where + ")";
    }
    list.push_back(entry);
    if (!json) std::printf("%s: %s\n", checkpoint.c_str(), said.c_str());
  }
  if (json) std::puts(list.dump(2).c_str());
  return good ? ExitCode::kDone : ExitCode::kFailed;
}

}  // namespace rekindle
