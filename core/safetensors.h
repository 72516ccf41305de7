// SPDX-License-Identifier: Apache-2.0
// The safetensors format (huggingface/safetensors): 8 bytes little-endian header length, a JSON object
// {name: {dtype, shape, data_offsets}}, then the bytes of the tensors without gaps. It lives in core because
// data sets and checkpoints both are such files, and it knows no torch.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "core/file_system.h"

namespace rekindle::safetensors {

// Every type of the format that LibTorch has a counterpart for, in the order of the Python package's list.
enum class DType {
  kBool,
  kF4,  // two to a byte; here, as in LibTorch, a pair counts as one element, and shapes are in pairs
  kU8,
  kI8,
  kF8E5M2,
  kF8E4M3,
  kF8E8M0,
  kF8E4M3FNUZ,
  kF8E5M2FNUZ,
  kI16,
  kU16,
  kF16,
  kBF16,
  kI32,
  kU32,
  kF32,
  kC64,
  kF64,
  kI64,
  kU64
};

int64_t size_of(DType dtype);           // bytes of one element
std::string_view name_of(DType dtype);  // "F32"

struct TensorInfo {
  std::string name;
  DType dtype = DType::kF32;
  std::vector<int64_t> shape;
  uint64_t begin = 0, end = 0;  // bytes, counted from the end of the header

  uint64_t bytes() const { return end - begin; }
  int64_t elements() const;
};

using Metadata = std::map<std::string, std::string>;  // "__metadata__"

// An open file whose header was checked: length, UTF-8, duplicate keys, dtypes, overflow, gaps, overlaps,
// trailing bytes, shape x dtype = size. Throws bad_input naming file, tensor and reason.
class Reader {
 public:
  Reader(FileSystem& files, const std::filesystem::path& path);

  const std::vector<TensorInfo>& tensors() const { return tensors_; }  // in the order of their bytes
  const TensorInfo* find(std::string_view name) const;                 // null where there is none
  const Metadata& metadata() const { return metadata_; }
  uint64_t file_bytes() const { return file_->size(); }
  uint64_t header_bytes() const { return header_bytes_; }  // where the tensors' bytes begin

  // Reads bytes as they stand in the file, from its beginning.
  void read_raw(uint64_t offset, std::span<std::byte> into) const { file_->read_at(offset, into); }

  // Reads `into.size()` bytes of a tensor, from `offset` within it.
  void read(const TensorInfo& tensor, uint64_t offset, std::span<std::byte> into) const;

 private:
  std::filesystem::path path_;
  std::unique_ptr<ReadableFile> file_;
  std::vector<TensorInfo> tensors_;
  std::map<std::string, size_t, std::less<>> places_;  // in tensors_, by name
  Metadata metadata_;
  uint64_t header_bytes_ = 0;
};

// A tensor to be written: contiguous bytes that the caller keeps alive and unchanged.
struct TensorView {
  std::string name;
  DType dtype = DType::kF32;
  std::vector<int64_t> shape;
  std::span<const std::byte> bytes;
};

// Writes and syncs a file; equal content gives equal bytes, whatever the order of `tensors`: they are laid
// out by dtype, wide ones first, then by name, byte for byte as the Python package does. Returns the digest
// of the file, taken on the way. Throws Error for a name that is there twice, or bytes that are not those of
// the shape.
std::string write(FileSystem& files, const std::filesystem::path& path, std::vector<TensorView> tensors,
                  const Metadata& metadata = {});

}  // namespace rekindle::safetensors
