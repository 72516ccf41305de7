// SPDX-License-Identifier: Apache-2.0
#include "warmstart/parent.h"

#include <algorithm>
#include <sstream>

#include "checkpoints/locate.h"
#include "checkpoints/weight_files.h"
#include "core/error.h"
#include "core/names.h"

namespace rekindle {
namespace {

namespace fs = std::filesystem;

Parent from_checkpoint(FileSystem& files, const fs::path& path, bool with_optimizer) {
  Checkpoint checkpoint = open_checkpoint(files, path, with_optimizer ? Verify::kAll : Verify::kDocuments);
  const WeightSource source{checkpoint.path / names::kModel, checkpoint.manifest.find(names::kModel)->digest};
  const std::string digest = checkpoint.digest();
  return {source, digest, std::move(checkpoint), {}};
}

// The text without the quotes and spaces around it.
std::string bare(std::string text) {
  const char* const around = " \t\r'\"";
  text.erase(0, std::min(text.find_first_not_of(around), text.size()));
  text.erase(text.find_last_not_of(around) + 1);
  return text;
}

// Names on the hub are ASCII; anything else is no name.
std::string printable(const std::string& text) {
  const auto is_good = [](unsigned char c) { return c > 32 && c < 127; };
  return std::ranges::all_of(text, is_good) ? text : "";
}

// Of the model card's head, which is YAML: `base_model: NAME`, or a list of which the first one counts.
std::string base_model_in(const std::string& card) {
  constexpr std::string_view kKey = "base_model:";
  std::istringstream lines(card);
  std::string line;
  if (!std::getline(lines, line) || bare(line) != "---") return "";
  while (std::getline(lines, line) && bare(line) != "---") {
    if (!line.starts_with(kKey)) continue;
    if (const std::string name = bare(line.substr(kKey.size())); !name.empty()) return name;
    if (!std::getline(lines, line)) return "";
    const std::string item = bare(line);
    return item.starts_with("- ") ? bare(item.substr(2)) : "";
  }
  return "";
}

Parent from_weights(FileSystem& files, const fs::path& path) {
  const WeightFiles weights(files, path);  // what is of another format is named before anything else happens
  Parent parent;
  std::vector<std::string> digests;
  for (const WeightFiles::Shard& shard : weights.shards()) {
    digests.push_back(digest_of_file(files, shard.path));
    parent.origin.files[shard.path.filename().string()] = digests.back();
  }
  parent.digest = digest_of_weights(weights, digests);
  parent.source = {path, parent.digest};
  const fs::path card = path.parent_path() / "README.md";
  try {
    if (files.exists(card)) parent.origin.base_model = printable(base_model_in(read_text(files, card)));
  } catch (const Error&) {  // a folder of that name, or a text without end: then nothing is known
  }
  return parent;
}

}  // namespace

std::optional<Parent> find_parent(FileSystem& files, const std::string& from, const fs::path& line,
                                  bool with_optimizer) {
  const auto checkpoint = [&](const fs::path& path) { return from_checkpoint(files, path, with_optimizer); };
  if (from == names::kPromoted) {
    if (line.empty()) {
      throw bad_input("there is no line whose promoted checkpoint could be taken", "warm_start.from",
                      "set run.line, or give warm_start.from a path");
    }
    const fs::path promoted = line / names::kPromoted;
    if (!files.read_link(promoted)) return std::nullopt;
    return checkpoint(promoted);
  }
  if (!files.exists(from)) throw bad_input("there is nothing to start from", from, "check warm_start.from");
  const Place place = locate(files, from);
  if (place.kind == Place::Kind::kCheckpoint) return checkpoint(place.path);
  if (with_optimizer) {
    throw bad_input("there are no moments beside bare weights", place.path.string(),
                    "warm_start.load.optimizer = \"load\" is for a checkpoint");
  }
  return from_weights(files, place.path);
}

}  // namespace rekindle
