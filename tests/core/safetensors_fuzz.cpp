// SPDX-License-Identifier: Apache-2.0
// A target of libFuzzer: whatever the bytes of a file are, the reader takes them or throws Error, and what it
// took it writes again to the same tensors. `scripts/soak.sh fuzz SECONDS`.
#include <cstdlib>
#include <cstring>

#include "core/error.h"
#include "core/safetensors.h"

namespace rekindle {
namespace {

// One file in memory; nothing else is there, and nothing is asked for but to open it and to write another.
class Memory final : public FileSystem {
 public:
  explicit Memory(std::vector<std::byte> bytes) : bytes_(std::move(bytes)) {}
  const std::vector<std::byte>& written() const { return written_; }

  std::unique_ptr<ReadableFile> open(const Path&) override { return std::make_unique<Reading>(bytes_); }
  std::unique_ptr<WritableFile> create(const Path&) override {
    written_.clear();
    return std::make_unique<Writing>(written_);
  }
  std::unique_ptr<WritableFile> append_to(const Path&) override { std::abort(); }
  bool exists(const Path&) override { std::abort(); }
  bool is_directory(const Path&) override { std::abort(); }
  std::vector<std::string> list(const Path&) override { std::abort(); }
  std::optional<std::string> read_link(const Path&) override { std::abort(); }
  void create_directories(const Path&) override { std::abort(); }
  bool create_directory(const Path&) override { std::abort(); }
  void rename(const Path&, const Path&) override { std::abort(); }
  void remove(const Path&) override { std::abort(); }
  void remove_all(const Path&) override { std::abort(); }
  void create_link(const Path&, const std::string&) override { std::abort(); }
  void sync_directory(const Path&) override { std::abort(); }
  std::unique_ptr<FileLock> try_lock(const Path&, std::string_view) override { std::abort(); }
  std::string lock_note(const Path&) override { std::abort(); }

 private:
  class Reading final : public ReadableFile {
   public:
    explicit Reading(const std::vector<std::byte>& bytes) : bytes_(bytes) {}
    uint64_t size() const override { return bytes_.size(); }
    void drop_cache() const override {}
    void read_at(uint64_t offset, std::span<std::byte> into) const override {
      if (offset > bytes_.size() || into.size() > bytes_.size() - offset) throw bad_input("behind the end");
      if (!into.empty()) std::memcpy(into.data(), bytes_.data() + offset, into.size());
    }

   private:
    const std::vector<std::byte>& bytes_;
  };
  class Writing final : public WritableFile {
   public:
    explicit Writing(std::vector<std::byte>& bytes) : bytes_(bytes) {}
    void append(std::span<const std::byte> bytes) override {
      bytes_.insert(bytes_.end(), bytes.begin(), bytes.end());
    }
    void sync() override {}
    void close() override {}

   private:
    std::vector<std::byte>& bytes_;
  };

  std::vector<std::byte> bytes_, written_;
};

struct Content {
  std::vector<safetensors::TensorInfo> tensors;
  std::vector<std::vector<std::byte>> bytes;
  safetensors::Metadata metadata;
};

Content content_of(FileSystem& files) {
  const safetensors::Reader reader(files, "file");
  Content content{reader.tensors(), {}, reader.metadata()};
  for (const safetensors::TensorInfo& tensor : content.tensors) {
    content.bytes.emplace_back(tensor.bytes());
    reader.read(tensor, 0, content.bytes.back());
    if (reader.find(tensor.name) == nullptr) std::abort();
  }
  return content;
}

void check(std::vector<std::byte> bytes) {
  Memory memory(std::move(bytes));
  Content content;
  try {
    content = content_of(memory);
  } catch (const Error&) {
    return;
  }
  std::vector<safetensors::TensorView> views;
  for (size_t i = 0; i < content.tensors.size(); ++i) {
    const safetensors::TensorInfo& info = content.tensors[i];
    views.push_back({info.name, info.dtype, info.shape, content.bytes[i]});
  }
  safetensors::write(memory, "again", views, content.metadata);
  Memory again(memory.written());
  const Content same = content_of(again);
  if (same.tensors.size() != content.tensors.size() || same.metadata != content.metadata) std::abort();
}

}  // namespace
}  // namespace rekindle

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const auto* bytes = reinterpret_cast<const std::byte*>(data);
  rekindle::check({bytes, bytes + size});
  return 0;
}
