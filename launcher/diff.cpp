// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <map>
#include <nlohmann/json.hpp>
#include <set>

#include "checkpoints/checkpoint.h"
#include "checkpoints/locate.h"
#include "checkpoints/weight_files.h"
#include "core/names.h"
#include "core/text.h"
#include "job/keys.h"
#include "launcher/look.h"
#include "launcher/table.h"

namespace rekindle {
namespace {

using nlohmann::ordered_json;
using safetensors::DType;
namespace fs = std::filesystem;

// A side of the comparison. Bare weights have no job and no lineage.
struct Side {
  fs::path path;
  std::optional<Checkpoint> checkpoint;
  std::unique_ptr<WeightFiles> weights;
  std::optional<Job> job;

  Side(FileSystem& files, const fs::path& given) {
    const Place place = locate(files, given);
    path = place.path;
    if (place.kind == Place::Kind::kCheckpoint) {
      checkpoint = open_checkpoint(files, place.path, Verify::kDocuments);
      path = checkpoint->path;
      const fs::path run = path.parent_path().parent_path();
      if (files.exists(run / names::kResolvedJob)) job = read_job(run / names::kResolvedJob);
    }
    weights = std::make_unique<WeightFiles>(files, checkpoint ? path / names::kModel : path);
  }
};

template <typename T>
double as_number(const std::byte* at) {
  T value;
  std::memcpy(&value, at, sizeof value);
  return static_cast<double>(value);
}

double from_bfloat16(const std::byte* at) {
  uint16_t half = 0;
  std::memcpy(&half, at, sizeof half);
  const uint32_t bits = static_cast<uint32_t>(half) << 16;
  float value = 0;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

double from_float16(const std::byte* at) {
  uint16_t half = 0;
  std::memcpy(&half, at, sizeof half);
  const int exponent = half >> 10 & 31, fraction = half & 1023;
  const double sign = half >> 15 ? -1 : 1;
  if (exponent == 31) return fraction ? NAN : sign * INFINITY;
  return exponent == 0 ? sign * std::ldexp(fraction, -24) : sign * std::ldexp(1024 + fraction, exponent - 25);
}

using Read = double (*)(const std::byte*);

// How numbers of a type are read; null for those that are only compared byte by byte.
Read reader_of(DType dtype) {
  switch (dtype) {
    case DType::kBool:
    case DType::kU8:
      return as_number<uint8_t>;
    case DType::kI8:
      return as_number<int8_t>;
    case DType::kI16:
      return as_number<int16_t>;
    case DType::kU16:
      return as_number<uint16_t>;
    case DType::kI32:
      return as_number<int32_t>;
    case DType::kU32:
      return as_number<uint32_t>;
    case DType::kI64:
      return as_number<int64_t>;
    case DType::kU64:
      return as_number<uint64_t>;
    case DType::kF16:
      return from_float16;
    case DType::kBF16:
      return from_bfloat16;
    case DType::kF32:
      return as_number<float>;
    case DType::kF64:
      return as_number<double>;
    default:
      return nullptr;
  }
}

struct Distance {
  bool same = true;   // to the byte
  bool known = true;  // norms are
  double norm_a = 0, norm_b = 0, distance = 0;
};

Distance compare(const safetensors::Reader& reader_a, const safetensors::TensorInfo& a,
                 const safetensors::Reader& reader_b, const safetensors::TensorInfo& b) {
  constexpr int64_t kChunk = 1 << 18;
  const Read read_a = reader_of(a.dtype), read_b = reader_of(b.dtype);
  const int64_t size_a = size_of(a.dtype), size_b = size_of(b.dtype), count = a.elements();
  Distance result;
  result.known = read_a != nullptr && read_b != nullptr;
  std::vector<std::byte> bytes_a, bytes_b;
  for (int64_t begin = 0; begin < count; begin += kChunk) {
    const int64_t chunk = std::min(kChunk, count - begin);
    bytes_a.resize(static_cast<size_t>(chunk * size_a));
    bytes_b.resize(static_cast<size_t>(chunk * size_b));
    reader_a.read(a, static_cast<uint64_t>(begin * size_a), bytes_a);
    reader_b.read(b, static_cast<uint64_t>(begin * size_b), bytes_b);
    result.same &= a.dtype == b.dtype && bytes_a == bytes_b;
    for (int64_t i = 0; i < chunk && result.known; ++i) {
      const double x = read_a(bytes_a.data() + i * size_a), y = read_b(bytes_b.data() + i * size_b);
      result.norm_a += x * x;
      result.norm_b += y * y;
      result.distance += (x - y) * (x - y);
    }
  }
  for (double* value : {&result.norm_a, &result.norm_b, &result.distance}) *value = std::sqrt(*value);
  return result;
}

const WeightFiles::Tensor* find(const WeightFiles& weights, const std::string& name) {
  const auto& tensors = weights.tensors();
  const auto found =
      std::ranges::find_if(tensors, [&](const auto& tensor) { return tensor.info->name == name; });
  return found == tensors.end() ? nullptr : &*found;
}

ordered_json diff_tensors(const Side& a, const Side& b) {
  ordered_json changed = ordered_json::array(), only_a = ordered_json::array(),
               only_b = ordered_json::array();
  int64_t same = 0;
  std::map<std::string, const WeightFiles::Tensor*> in_b;
  for (const WeightFiles::Tensor& tensor : b.weights->tensors()) in_b[tensor.info->name] = &tensor;
  for (const WeightFiles::Tensor& tensor : a.weights->tensors()) {
    const safetensors::TensorInfo& info = *tensor.info;
    const auto other = in_b.find(info.name);
    if (other == in_b.end()) {
      only_a.push_back(info.name);
      continue;
    }
    const safetensors::TensorInfo& theirs = *other->second->info;
    if (info.shape != theirs.shape) {
      changed.push_back({{"name", info.name}, {"shape_a", info.shape}, {"shape_b", theirs.shape}});
      continue;
    }
    const Distance distance = compare(*a.weights->shards()[tensor.shard].reader, info,
                                      *b.weights->shards()[other->second->shard].reader, theirs);
    if (distance.same) {
      ++same;
      continue;
    }
    ordered_json entry{{"name", info.name}};
    if (info.dtype != theirs.dtype) entry["dtype_a"] = name_of(info.dtype);
    if (info.dtype != theirs.dtype) entry["dtype_b"] = name_of(theirs.dtype);
    if (distance.known) {
      entry["norm_a"] = distance.norm_a;
      entry["norm_b"] = distance.norm_b;
      entry["distance"] = distance.distance;
    }
    changed.push_back(entry);
  }
  for (const WeightFiles::Tensor& tensor : b.weights->tensors())
    if (find(*a.weights, tensor.info->name) == nullptr) only_b.push_back(tensor.info->name);
  return {{"same", same}, {"changed", changed}, {"only_a", only_a}, {"only_b", only_b}};
}

ordered_json diff_jobs(const Side& a, const Side& b) {
  ordered_json changed = ordered_json::object();
  if (!a.job || !b.job) return changed;
  const auto note = [&](const std::string& key, const std::string& mine, const std::string& theirs) {
    if (mine != theirs) changed[key] = {mine, theirs};
  };
  for (const Key<Job>& key : job_keys()) {
    if (key.section == "verdict" && !(a.job->verdict && b.job->verdict)) continue;
    note(key.full_name(), key.print(*a.job), key.print(*b.job));
  }
  if (a.job->verdict.has_value() != b.job->verdict.has_value())
    note("[verdict]", a.job->verdict ? "there" : "not there", b.job->verdict ? "there" : "not there");
  std::set<std::string> keys;
  for (const auto* model : {&a.job->model, &b.job->model})
    for (const auto& [key, value] : model->values()) keys.insert(key);
  for (const std::string& key : keys) {
    const auto print = [&](const ModelOptions& model) {
      const auto value = model.values().find(key);
      return value == model.values().end() ? std::string() : print_model_value(value->second);
    };
    note("model." + key, print(a.job->model), print(b.job->model));
  }
  return changed;
}

ordered_json diff_data(const Side& a, const Side& b) {
  ordered_json only_a = ordered_json::array(), only_b = ordered_json::array(), seen = ordered_json::array();
  if (a.checkpoint && b.checkpoint) {
    std::map<std::string, IncrementRecord> in_a, in_b;
    for (const auto& record : a.checkpoint->lineage.increments) in_a[record.digest] = record;
    for (const auto& record : b.checkpoint->lineage.increments) in_b[record.digest] = record;
    for (const auto& [digest, record] : in_a)
      if (!in_b.contains(digest)) only_a.push_back({{"digest", digest}, {"samples", record.samples}});
    for (const auto& [digest, record] : in_b) {
      const auto mine = in_a.find(digest);
      if (mine == in_a.end()) {
        only_b.push_back({{"digest", digest}, {"samples", record.samples}});
      } else if (mine->second.seen != record.seen) {
        seen.push_back({{"digest", digest}, {"seen_a", mine->second.seen}, {"seen_b", record.seen}});
      }
    }
  }
  return {{"only_a", only_a}, {"only_b", only_b}, {"seen", seen}};
}

std::string text(const ordered_json& value) {
  return value.is_string() ? value.get<std::string>() : value.dump();
}

std::string in_a_line(const ordered_json& value) {
  constexpr size_t kMost = 60;
  std::string line = text(value);
  std::ranges::replace(line, '\n', ' ');
  return line.size() > kMost ? line.substr(0, kMost - 3) + "..." : line;
}

void print(const ordered_json& answer) {
  std::printf("a  %s\nb  %s\n", text(answer["a"]).c_str(), text(answer["b"]).c_str());
  const ordered_json &job = answer["job"], &data = answer["data"], &tensors = answer["tensors"];
  if (!job.empty()) {
    std::vector<std::vector<std::string>> rows{{"job", "a", "b"}};
    for (const auto& [key, values] : job.items())
      rows.push_back({key, in_a_line(values[0]), in_a_line(values[1])});
    std::printf("\n%s", table(rows).c_str());
  }
  std::vector<std::vector<std::string>> rows{{"data", "samples", ""}};
  for (const auto& record : data["only_a"])
    rows.push_back({text(record["digest"]), text(record["samples"]), "only in a"});
  for (const auto& record : data["only_b"])
    rows.push_back({text(record["digest"]), text(record["samples"]), "only in b"});
  for (const auto& record : data["seen"])
    rows.push_back({text(record["digest"]), "",
                    "trained on " + text(record["seen_a"]) + " in a, " + text(record["seen_b"]) + " in b"});
  if (rows.size() > 1) std::printf("\n%s", table(rows).c_str());
  rows = {{"tensor", "norm in a", "norm in b", "distance", "of a's norm"}};
  for (const auto& tensor : tensors["changed"]) {
    if (tensor.contains("distance")) {
      const double norm = tensor["norm_a"], distance = tensor["distance"];
      rows.push_back({text(tensor["name"]), short_number(norm), short_number(tensor["norm_b"]),
                      short_number(distance), norm > 0 ? short_number(100 * distance / norm) + " %" : ""});
    } else {
      rows.push_back({text(tensor["name"]), tensor.contains("shape_a") ? "shape " + text(tensor["shape_a"]) +
                                                                             " and " + text(tensor["shape_b"])
                                                                       : "differs"});
    }
  }
  for (const auto& name : tensors["only_a"]) rows.push_back({text(name), "only in a"});
  for (const auto& name : tensors["only_b"]) rows.push_back({text(name), "", "only in b"});
  if (rows.size() > 1) std::printf("\n%s", table(rows).c_str());
  std::printf("\n%s tensors are the same to the byte\n", text(tensors["same"]).c_str());
}

}  // namespace

ExitCode diff(FileSystem& files, const fs::path& path_a, const fs::path& path_b, bool json) {
  const Side a(files, path_a), b(files, path_b);
  const ordered_json answer{{"a", a.path.string()},
                            {"b", b.path.string()},
                            {"job", diff_jobs(a, b)},
                            {"data", diff_data(a, b)},
                            {"tensors", diff_tensors(a, b)}};
  if (json) {
    std::puts(answer.dump(2).c_str());
  } else {
    print(answer);
  }
  return ExitCode::kDone;
}

}  // namespace rekindle
