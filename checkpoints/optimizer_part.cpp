// SPDX-License-Identifier: Apache-2.0
#include "checkpoints/optimizer_part.h"

#include <algorithm>
#include <set>

#include "checkpoints/fields.h"
#include "core/error.h"
#include "core/json.h"

namespace rekindle {
namespace {

constexpr int64_t kElementBytes = 4;
constexpr std::string_view kPartPrefix = "optimizer-";

std::string text_of(Range range) {
  return "[" + std::to_string(range.begin) + ", " + std::to_string(range.end) + ")";
}

}  // namespace

std::string write_optimizer_part(FileSystem& files, const std::filesystem::path& path,
                                 std::span<const ShardView> shards) {
  std::vector<safetensors::TensorView> tensors;
  safetensors::Metadata metadata;
  for (const ShardView& shard : shards) {
    const std::string name = shard.parameter + "/" + shard.moment + "@" + std::to_string(shard.offset);
    const nlohmann::json place{{"parameter", shard.parameter},
                               {"moment", shard.moment},
                               {"offset", shard.offset},
                               {"length", shard.length}};
    metadata[name] = place.dump();
    tensors.push_back({name, safetensors::DType::kF32, {shard.length}, shard.bytes});
  }
  return safetensors::write(files, path, std::move(tensors), metadata);
}

OptimizerParts::OptimizerParts(FileSystem& files, const std::filesystem::path& checkpoint,
                               const Manifest& manifest)
    : where_(checkpoint.string()) {
  for (const FileRecord& file : manifest.files()) {
    if (!file.name.starts_with(kPartPrefix)) continue;
    parts_.push_back(std::make_unique<safetensors::Reader>(files, checkpoint / file.name));
    add(*parts_.back(), (checkpoint / file.name).string());
  }
  for (auto& [key, pieces] : pieces_) {
    std::ranges::sort(pieces, {}, [](const Piece& piece) { return piece.range.begin; });
    for (size_t i = 1; i < pieces.size(); ++i) {
      if (pieces[i].range.begin >= pieces[i - 1].range.end) continue;
      throw bad_input("two parts hold " + key.second + " of " + key.first + " from element " +
                          std::to_string(pieces[i].range.begin) + " on",
                      where_);
    }
  }
}

void OptimizerParts::add(const safetensors::Reader& part, const std::string& where) {
  for (const safetensors::TensorInfo& tensor : part.tensors()) {
    const auto reject = [&](const std::string& reason) {
      throw bad_input("bad optimizer part: tensor \"" + tensor.name + "\": " + reason, where);
    };
    const auto entry = part.metadata().find(tensor.name);
    if (entry == part.metadata().end()) reject("no record of its place in the metadata");
    const nlohmann::json json = parse_json(entry->second, where, 1);
    const Fields place(json, where);
    const int64_t offset = place.count("offset"), length = place.count("length");
    if (tensor.dtype != safetensors::DType::kF32) reject("it is not F32");
    if (tensor.elements() != length) reject("it does not have the length that is recorded");
    Range range{offset, 0};
    if (__builtin_add_overflow(offset, length, &range.end)) reject("its place overflows");
    if (!range.empty())
      pieces_[{place.text("parameter"), place.text("moment")}].push_back({range, &part, &tensor});
  }
}

std::vector<std::string> OptimizerParts::moments(const std::string& parameter) const {
  std::vector<std::string> names;
  for (auto entry = pieces_.lower_bound({parameter, ""}); entry != pieces_.end(); ++entry) {
    if (entry->first.first != parameter) break;
    names.push_back(entry->first.second);
  }
  return names;
}

std::vector<std::string> OptimizerParts::moments() const {
  std::set<std::string> names;
  for (const auto& [key, pieces] : pieces_) names.insert(key.second);
  return {names.begin(), names.end()};
}

void OptimizerParts::read(const std::string& parameter, const std::string& moment, Range range,
                          std::span<std::byte> into) const {
  if (into.size() != static_cast<size_t>(range.size() * kElementBytes)) {
    throw Error("the place for " + moment + " of " + parameter + " has not the size of " + text_of(range));
  }
  Range missing = range;
  if (const auto found = pieces_.find({parameter, moment}); found != pieces_.end()) {
    for (const Piece& piece : found->second) {
      const Range part = piece.range.intersect(missing);
      if (part.empty()) continue;
      if (part.begin != missing.begin) break;  // a hole before this piece
      const auto target = into.subspan(static_cast<size_t>((part.begin - range.begin) * kElementBytes),
                                       static_cast<size_t>(part.size() * kElementBytes));
      const auto offset = static_cast<uint64_t>((part.begin - piece.range.begin) * kElementBytes);
      piece.part->read(*piece.tensor, offset, target);
      missing.begin = part.end;
    }
  }
  if (missing.empty()) return;
  throw bad_input("no part of the optimizer's state holds " + moment + " of " + parameter + " from element " +
                      std::to_string(missing.begin) + " of " + text_of(range),
                  where_);
}

}  // namespace rekindle
