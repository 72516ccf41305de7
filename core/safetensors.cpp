// SPDX-License-Identifier: Apache-2.0
#include "core/safetensors.h"

#include <algorithm>
#include <array>
#include <bit>
#include <limits>
#include <optional>
#include <set>
#include <utility>

#include "core/digest.h"
#include "core/error.h"
#include "core/json.h"

namespace rekindle::safetensors {
namespace {

Error bad_file(const std::string& reason, const std::string& where,
               const char* hint = "it is damaged or of another format: copy it or write it again") {
  return bad_input("bad safetensors file: " + reason, where, hint);
}

static_assert(std::endian::native == std::endian::little, "the bytes of a file are used as they are");

constexpr uint64_t kPrefixBytes = 8;                // the length of the header
constexpr uint64_t kMostHeaderBytes = 100'000'000;  // the Python package's limit
constexpr size_t kChunkBytes = 1 << 20;
constexpr char kMetadataKey[] = "__metadata__";

struct DTypeRow {
  DType dtype;
  std::string_view name;
  int64_t bytes;
};

// In the order of DType, which decides the order of tensors in a file.
constexpr std::array<DTypeRow, 20> kDTypes{{{DType::kBool, "BOOL", 1},
                                            {DType::kF4, "F4", 1},
                                            {DType::kU8, "U8", 1},
                                            {DType::kI8, "I8", 1},
                                            {DType::kF8E5M2, "F8_E5M2", 1},
                                            {DType::kF8E4M3, "F8_E4M3", 1},
                                            {DType::kF8E8M0, "F8_E8M0", 1},
                                            {DType::kF8E4M3FNUZ, "F8_E4M3FNUZ", 1},
                                            {DType::kF8E5M2FNUZ, "F8_E5M2FNUZ", 1},
                                            {DType::kI16, "I16", 2},
                                            {DType::kU16, "U16", 2},
                                            {DType::kF16, "F16", 2},
                                            {DType::kBF16, "BF16", 2},
                                            {DType::kI32, "I32", 4},
                                            {DType::kU32, "U32", 4},
                                            {DType::kF32, "F32", 4},
                                            {DType::kC64, "C64", 8},
                                            {DType::kF64, "F64", 8},
                                            {DType::kI64, "I64", 8},
                                            {DType::kU64, "U64", 8}}};

const DTypeRow& row_of(DType dtype) {
  return kDTypes[static_cast<size_t>(dtype)];
}

// Elements times bytes of a shape; none where that does not fit.
std::optional<uint64_t> bytes_of(DType dtype, std::span<const int64_t> shape) {
  int64_t bytes = size_of(dtype);
  for (const int64_t extent : shape) {
    if (extent < 0 || __builtin_mul_overflow(bytes, extent, &bytes)) return std::nullopt;
  }
  return static_cast<uint64_t>(bytes);
}

std::string in_quotes(std::string_view text) {
  return "\"" + std::string(text) + "\"";
}

// For a caller of ours that went wrong, not a file.
Error misuse(std::string what, std::string where) {
  return {std::move(what), {std::move(where), "", ExitCode::kFailed}};
}

// Reads one tensor's record. Each complaint names the tensor.
class Record {
 public:
  Record(const std::string& name, const nlohmann::json& json, const std::string& where)
      : name_(name), json_(json), where_(where) {}

  TensorInfo read() const {
    if (!json_.is_object()) reject("its record is not an object");
    for (const auto& [key, value] : json_.items()) {  // a key that we skip could change what the bytes mean
      if (key != "dtype" && key != "shape" && key != "data_offsets") reject("unknown key " + in_quotes(key));
    }
    const std::vector<uint64_t> offsets = numbers("data_offsets");
    if (offsets.size() != 2) reject("data_offsets is not a pair");
    if (offsets[1] < offsets[0]) reject("data_offsets end before they begin");
    TensorInfo info{name_, dtype(), {}, offsets[0], offsets[1]};
    for (const uint64_t extent : numbers("shape")) info.shape.push_back(static_cast<int64_t>(extent));
    if (info.dtype == DType::kF4) {
      if (info.shape.empty() || info.shape.back() % 2 != 0)
        reject("F4 goes in pairs, and its last extent is odd");
      info.shape.back() /= 2;
    }
    const auto bytes = bytes_of(info.dtype, info.shape);
    if (!bytes) reject("its shape overflows");
    if (*bytes != info.bytes()) {
      reject("its shape takes " + std::to_string(*bytes) + " bytes, data_offsets give it " +
             std::to_string(info.bytes()));
    }
    return info;
  }

 private:
  [[noreturn]] void reject(const std::string& reason) const {
    throw bad_file("tensor " + in_quotes(name_) + ": " + reason, where_);
  }

  const nlohmann::json& field(const char* key) const {
    const auto found = json_.find(key);
    if (found == json_.end()) reject("no " + std::string(key));
    return *found;
  }

  DType dtype() const {
    const nlohmann::json& value = field("dtype");
    if (!value.is_string()) reject("dtype is not a text");
    const auto row = std::ranges::find(kDTypes, value.get_ref<const std::string&>(), &DTypeRow::name);
    if (row == kDTypes.end()) reject("unknown dtype " + value.dump());
    return row->dtype;
  }

  std::vector<uint64_t> numbers(const char* key) const {
    const nlohmann::json& list = field(key);
    if (!list.is_array()) reject(std::string(key) + " is not a list");
    std::vector<uint64_t> values;
    for (const nlohmann::json& value : list) {
      constexpr uint64_t kMost = std::numeric_limits<int64_t>::max();
      if (!value.is_number_unsigned() || value.get<uint64_t>() > kMost) {
        reject(std::string(key) + " holds " + value.dump() + ", which is no whole number from 0 to 2^63-1");
      }
      values.push_back(value.get<uint64_t>());
    }
    return values;
  }

  const std::string& name_;
  const nlohmann::json& json_;
  const std::string& where_;
};

Metadata read_metadata(const nlohmann::json& json, const std::string& where) {
  if (!json.is_object()) throw bad_file("__metadata__ is not an object", where);
  Metadata metadata;
  for (const auto& [key, value] : json.items()) {
    if (!value.is_string()) {
      throw bad_file("__metadata__: " + in_quotes(key) + " is not a text", where);
    }
    metadata[key] = value.get<std::string>();
  }
  return metadata;
}

// The tensors must fill the `data_bytes` after the header, in order, without gap or overlap.
void check_places(const std::vector<TensorInfo>& tensors, uint64_t data_bytes, const std::string& where) {
  uint64_t end = 0;
  for (const TensorInfo& tensor : tensors) {
    if (tensor.begin != end) {
      throw bad_file("tensor " + in_quotes(tensor.name) +
                         (tensor.begin > end ? ": a gap before it" : ": it overlaps the one before it"),
                     where);
    }
    end = tensor.end;
    if (end > data_bytes) {
      throw bad_file("tensor " + in_quotes(tensor.name) + ": it ends at byte " + std::to_string(end) +
                         ", the file has " + std::to_string(data_bytes) + " after its header",
                     where, "the file was cut short: copy or download it again");
    }
  }
  if (end != data_bytes) {
    throw bad_file(std::to_string(data_bytes - end) + " bytes after the last tensor", where);
  }
}

std::string read_header(const ReadableFile& file, const std::string& where) {
  const auto reject = [&](const std::string& reason) { throw bad_file(reason, where); };
  if (file.size() < kPrefixBytes) reject("it has " + std::to_string(file.size()) + " bytes, less than 8");
  uint64_t length = 0;
  file.read_at(0, std::as_writable_bytes(std::span(&length, 1)));
  if (length > kMostHeaderBytes)
    reject("its header claims " + std::to_string(length) + " bytes, over 100 MB");
  if (length > file.size() - kPrefixBytes) {
    reject("its header claims " + std::to_string(length) + " bytes, the file has " +
           std::to_string(file.size() - kPrefixBytes) + " more");
  }
  std::string header(length, '\0');
  file.read_at(kPrefixBytes, std::as_writable_bytes(std::span(header)));
  if (!header.starts_with('{')) reject("its header does not start with '{'");
  return header;
}

void check_views(const std::vector<TensorView>& tensors, const std::string& where) {
  std::set<std::string_view> names;
  for (const TensorView& tensor : tensors) {
    if (!names.insert(tensor.name).second) {
      throw misuse("two tensors are named " + in_quotes(tensor.name), where);
    }
    if (tensor.name == kMetadataKey) throw misuse("a tensor may not be named __metadata__", where);
    if (bytes_of(tensor.dtype, tensor.shape) != tensor.bytes.size()) {
      throw misuse("the bytes of tensor " + in_quotes(tensor.name) + " are not those of its shape", where);
    }
  }
}

std::string json_text(const std::string& text, const std::string& where) {
  try {
    return nlohmann::json(text).dump();
  } catch (const nlohmann::json::exception&) {
    throw misuse("a name or text for a safetensors file is not UTF-8", where);
  }
}

// Built as text, because a JSON object would sort its keys and tensors stand in the order of their bytes.
std::string header_of(const std::vector<TensorView>& tensors, const Metadata& metadata,
                      const std::string& where) {
  std::string header = "{";
  if (!metadata.empty()) {
    std::string entries;
    for (const auto& [key, value] : metadata) {
      entries += (entries.empty() ? "" : ",") + json_text(key, where) + ":" + json_text(value, where);
    }
    header += in_quotes(kMetadataKey) + ":{" + entries + "}";
  }
  uint64_t begin = 0;
  for (const TensorView& tensor : tensors) {
    const uint64_t end = begin + tensor.bytes.size();
    std::vector<int64_t> shape = tensor.shape;
    if (tensor.dtype == DType::kF4 && !shape.empty()) shape.back() *= 2;
    header += (header.size() > 1 ? "," : "") + json_text(tensor.name, where) +
              ":{\"dtype\":" + in_quotes(name_of(tensor.dtype)) +
              ",\"shape\":" + nlohmann::json(shape).dump() + ",\"data_offsets\":[" + std::to_string(begin) +
              "," + std::to_string(end) + "]}";
    begin = end;
  }
  header += "}";
  // Padded, so that the tensors are aligned for those who map the file.
  header.resize((header.size() + 7) / 8 * 8, ' ');
  return header;
}

}  // namespace

int64_t size_of(DType dtype) {
  return row_of(dtype).bytes;
}

std::string_view name_of(DType dtype) {
  return row_of(dtype).name;
}

int64_t TensorInfo::elements() const {
  return static_cast<int64_t>(bytes()) / size_of(dtype);
}

Reader::Reader(FileSystem& files, const std::filesystem::path& path) : path_(path), file_(files.open(path)) {
  const std::string where = path.string();
  const std::string text = read_header(*file_, where);
  header_bytes_ = kPrefixBytes + text.size();
  const nlohmann::json header = parse_json(text, where, 3);
  for (const auto& [name, value] : header.items()) {
    if (name == kMetadataKey) {
      metadata_ = read_metadata(value, where);
    } else {
      tensors_.push_back(Record(name, value, where).read());
    }
  }
  std::ranges::stable_sort(tensors_, {}, [](const TensorInfo& tensor) {
    return std::pair(tensor.begin, tensor.end);  // an empty tensor before the one that begins where it does
  });
  check_places(tensors_, file_->size() - header_bytes_, where);
  for (size_t i = 0; i < tensors_.size(); ++i) places_[tensors_[i].name] = i;
}

const TensorInfo* Reader::find(std::string_view name) const {
  const auto place = places_.find(name);
  return place == places_.end() ? nullptr : &tensors_[place->second];
}

void Reader::read(const TensorInfo& tensor, uint64_t offset, std::span<std::byte> into) const {
  if (offset > tensor.bytes() || into.size() > tensor.bytes() - offset) {
    throw misuse("a read beyond the end of tensor " + in_quotes(tensor.name), path_.string());
  }
  file_->read_at(header_bytes_ + tensor.begin + offset, into);
}

std::string write(FileSystem& files, const std::filesystem::path& path, std::vector<TensorView> tensors,
                  const Metadata& metadata) {
  const std::string where = path.string();
  check_views(tensors, where);
  std::ranges::sort(tensors, [](const TensorView& a, const TensorView& b) {
    return a.dtype != b.dtype ? a.dtype > b.dtype : a.name < b.name;
  });
  const std::string header = header_of(tensors, metadata, where);
  const uint64_t length = header.size();

  const auto file = files.create(path);
  Digest digest;
  const auto put = [&](std::span<const std::byte> bytes) {
    while (!bytes.empty()) {  // in pieces that are still in the cache when they are written
      const auto part = bytes.first(std::min(kChunkBytes, bytes.size()));
      digest.update(part);
      file->append(part);
      bytes = bytes.subspan(part.size());
    }
  };
  put(std::as_bytes(std::span(&length, 1)));
  put(std::as_bytes(std::span(header)));
  for (const TensorView& tensor : tensors) put(tensor.bytes);
  file->sync();
  file->close();
  return digest.hex();
}

}  // namespace rekindle::safetensors
