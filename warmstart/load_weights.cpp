// SPDX-License-Identifier: Apache-2.0
#include "warmstart/load_weights.h"

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <set>

#include "core/error.h"
#include "core/safetensors.h"
#include "core/text.h"

namespace rekindle {
namespace {

using safetensors::Reader;
using safetensors::TensorInfo;

constexpr uint64_t kChunk = 4 << 20;

std::string shape_text(const std::vector<int64_t>& shape) {
  std::string text = "[";
  for (size_t i = 0; i < shape.size(); ++i) text += (i ? ", " : "") + std::to_string(shape[i]);
  return text + "]";
}

void check_matches(const std::filesystem::path& file, const TensorInfo& info, const at::Tensor& tensor) {
  if (info.shape != tensor.sizes().vec()) {
    throw bad_input("tensor '" + info.name + "' is " + shape_text(info.shape) + " in the file and " +
                        shape_text(tensor.sizes().vec()) + " in the model",
                    file.string(),
                    "the model must be of the same size; a head that grows is not in this version");
  }
  if (info.dtype != dtype_of(tensor)) {
    throw bad_input("tensor '" + info.name + "' is " + std::string(name_of(info.dtype)) +
                        " in the file and " + std::string(name_of(dtype_of(tensor))) + " in the model",
                    file.string(), "conversion between types is not in this version");
  }
}

void read_into(const Reader& reader, const TensorInfo& info, at::Tensor tensor) {
  at::Tensor here = tensor.to(at::kCPU);  // itself, unless it lies on a GPU
  const std::span<std::byte> into = bytes_of(here);
  for (uint64_t at = 0; at < into.size(); at += kChunk) {
    reader.read(info, at, into.subspan(at, std::min<uint64_t>(kChunk, into.size() - at)));
  }
  if (!tensor.is_cpu()) tensor.copy_(here);
}

// Sorts the tensors into loaded, fresh and unused, and checks each match.
LoadReport match(const Reader& reader, const std::filesystem::path& file, const NamedState& state) {
  LoadReport report;
  std::set<std::string> known;
  const auto sort = [&](const std::string& name, const at::Tensor& tensor, bool parameter) {
    known.insert(name);
    const TensorInfo* info = reader.find(name);
    (info ? report.loaded : report.fresh).push_back(name);
    if (parameter) report.elements += tensor.numel();
    if (info == nullptr) return;
    check_matches(file, *info, tensor);
    report.bytes += info->bytes();
    if (parameter) report.loaded_elements += tensor.numel();
  };
  for (const auto& [name, tensor] : state.parameters) sort(name, tensor, true);
  for (const auto& [name, tensor] : state.frozen) sort(name, tensor, true);
  for (const auto& [name, tensor] : state.buffers) sort(name, tensor, false);
  for (const TensorInfo& info : reader.tensors()) {
    report.file_elements += info.elements();
    if (known.contains(info.name)) continue;
    report.unused.push_back(info.name);
    report.unused_elements += info.elements();
  }
  return report;
}

void check_floor(const LoadReport& report, const std::filesystem::path& file, double min_loaded) {
  if (report.loaded_share() >= min_loaded) return;
  char floor[32];
  std::snprintf(floor, sizeof floor, "%g", min_loaded);
  throw bad_input(
      "too little would be loaded: " + report.text(), file.string(),
      "warm_start.min_loaded is " + std::string(floor) + "; check the model and the names of its tensors");
}

void read_all(const Reader& reader, const NamedState& state) {
  for (const auto* part : {&state.parameters, &state.frozen, &state.buffers}) {
    for (const auto& [name, tensor] : *part) {
      if (const TensorInfo* info = reader.find(name)) read_into(reader, *info, tensor.detach());
    }
  }
}

std::string list(const char* what, const std::vector<std::string>& names) {
  if (names.empty()) return "";
  std::vector<std::string> some(names.begin(), names.begin() + std::min<size_t>(names.size(), 8));
  if (some.size() < names.size()) some.push_back(std::to_string(names.size() - some.size()) + " more");
  return std::string("; ") + what + ": " + enumerate(some);
}

}  // namespace

std::string LoadReport::text() const {
  char share[64];
  std::snprintf(share, sizeof share, "%.1f %% of the parameters loaded", 100 * loaded_share());
  return std::to_string(loaded.size()) + " tensors, " + share + list("fresh", fresh) + list("unused", unused);
}

LoadReport load_weights(Communicator& communicator, FileSystem& files, const std::filesystem::path& file,
                        const NamedState& state, at::Tensor flat, double min_loaded) {
  const auto start = std::chrono::steady_clock::now();
  LoadReport report;
  const auto read = [&] {
    const Reader reader(files, file);
    report = match(reader, file, state);
    check_floor(report, file, min_loaded);
    read_all(reader, state);
  };
  together(communicator, "reading the parent's weights", read, 0);
  communicator.broadcast(flat, 0, "broadcast of the parent's weights");
  for (const auto* part : {&state.frozen, &state.buffers}) {
    for (const auto& [name, tensor] : *part) {
      communicator.broadcast(tensor.detach(), 0, "broadcast of the parent's buffers");
    }
  }
  check_same(communicator, digest_of(state), "weights", "the broadcast lost something; start again");
  report.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  return report;
}

void read_weights(FileSystem& files, const std::filesystem::path& file, const NamedState& state) {
  const Reader reader(files, file);
  match(reader, file, state);
  read_all(reader, state);
}

}  // namespace rekindle
