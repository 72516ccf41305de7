// SPDX-License-Identifier: Apache-2.0
#include "data/idx.h"

#include <zlib.h>

#include <algorithm>
#include <array>
#include <iomanip>
#include <memory>
#include <span>
#include <sstream>
#include <string>

#include "core/error.h"

namespace rekindle {
namespace {

constexpr char kCopyAgain[] =
    "copy or download the file again; it was probably cut short or damaged on the way";
constexpr uint64_t kDeflateLimit = 1032;  // no deflate stream grows by more than this when it is unpacked
constexpr uint8_t kUnsignedByte = 0x08;

// The bytes of a file from front to back; gzip is unpacked on the way.
class ByteStream {
 public:
  ByteStream(FileSystem& files, const std::filesystem::path& path)
      : path_(path), file_(files.open(path)), buffer_(kBufferBytes) {
    refill();
    gzip_ = starts_with_gzip_magic();
    if (gzip_ && inflateInit2(&zlib_, 16 + MAX_WBITS) != Z_OK) throw Error("there is no memory for zlib");
  }
  ~ByteStream() {
    if (gzip_) inflateEnd(&zlib_);
  }
  ByteStream(const ByteStream&) = delete;
  ByteStream& operator=(const ByteStream&) = delete;

  // Fills `into` and returns its size, or less at the end of the file.
  size_t read(std::span<std::byte> into) {
    size_t done = 0;
    while (done < into.size()) {
      const size_t more = gzip_ ? inflate_some(into.subspan(done)) : copy_some(into.subspan(done));
      if (more == 0) break;
      done += more;
    }
    return done;
  }

  // More than this cannot come, so that a damaged header is no reason to ask for terabytes of memory.
  uint64_t most_bytes() const { return gzip_ ? file_->size() * kDeflateLimit : file_->size(); }

 private:
  static constexpr size_t kBufferBytes = 256 << 10;

  bool refill() {
    const size_t bytes = std::min<uint64_t>(kBufferBytes, file_->size() - offset_);
    file_->read_at(offset_, std::span(buffer_).first(bytes));
    offset_ += bytes;
    zlib_.next_in = reinterpret_cast<Bytef*>(buffer_.data());
    zlib_.avail_in = static_cast<uInt>(bytes);
    return bytes > 0;
  }

  bool starts_with_gzip_magic() const {
    return zlib_.avail_in >= 2 && zlib_.next_in[0] == 0x1f && zlib_.next_in[1] == 0x8b;
  }

  size_t copy_some(std::span<std::byte> into) {
    if (zlib_.avail_in == 0 && !refill()) return 0;
    const size_t bytes = std::min<size_t>(into.size(), zlib_.avail_in);
    std::copy_n(reinterpret_cast<const std::byte*>(zlib_.next_in), bytes, into.begin());
    zlib_.next_in += bytes;
    zlib_.avail_in -= static_cast<uInt>(bytes);
    return bytes;
  }

  // Returns at least one byte, or 0 once the last stream has ended and its checksum was right.
  size_t inflate_some(std::span<std::byte> into) {
    const size_t most = std::min<size_t>(into.size(), 1u << 30);  // zlib counts in 32 bits
    zlib_.next_out = reinterpret_cast<Bytef*>(into.data());
    zlib_.avail_out = static_cast<uInt>(most);
    while (zlib_.avail_out == most) {
      if (ended_ && !next_member()) return 0;
      if (zlib_.avail_in == 0 && !refill())
        throw bad_input("the gzip stream ends too early", path_, kCopyAgain);
      const int status = inflate(&zlib_, Z_NO_FLUSH);
      ended_ = status == Z_STREAM_END;
      if (status == Z_OK || status == Z_BUF_ERROR || ended_) continue;
      throw bad_input(std::string("damaged gzip data: ") + (zlib_.msg ? zlib_.msg : zError(status)), path_,
                      kCopyAgain);
    }
    return most - zlib_.avail_out;
  }

  // A gzip file may be several streams, one after the other; nothing else may follow.
  bool next_member() {
    if (zlib_.avail_in == 0 && !refill()) return false;
    // The magic may be cut by the end of the buffer: one byte must do then, zlib checks the other.
    if (zlib_.next_in[0] != 0x1f) throw bad_input("there are bytes after the gzip stream", path_, kCopyAgain);
    inflateReset(&zlib_);
    ended_ = false;
    return true;
  }

  std::filesystem::path path_;
  std::unique_ptr<ReadableFile> file_;
  std::vector<std::byte> buffer_;
  uint64_t offset_ = 0;  // of the next refill
  z_stream zlib_{};      // next_in and avail_in are what is left in the buffer, for plain files too
  bool gzip_ = false, ended_ = false;
};

std::string hexadecimal(uint32_t magic) {
  std::ostringstream text;
  text << "0x" << std::hex << std::setw(8) << std::setfill('0') << magic;
  return text.str();
}

uint32_t read_big_endian(ByteStream& stream, const std::filesystem::path& path) {
  std::array<std::byte, 4> bytes;
  if (stream.read(bytes) < bytes.size()) throw bad_input("the IDX header is incomplete", path, kCopyAgain);
  uint32_t number = 0;
  for (const std::byte byte : bytes) number = number << 8 | std::to_integer<uint32_t>(byte);
  return number;
}

void check_magic(uint32_t magic, int dimensions, const std::filesystem::path& path) {
  const uint32_t expected = kUnsignedByte << 8 | static_cast<uint32_t>(dimensions);
  if (magic == expected) return;
  std::string hint =
      "images are IDX files of unsigned bytes with 3 dimensions (0x00000803), labels with 1 (0x00000801)";
  if (magic == 0x0801 || magic == 0x0803) hint = "images and labels look swapped";
  throw bad_input("IDX magic " + hexadecimal(magic) + ", expected " + hexadecimal(expected), path, hint);
}

int64_t product(const std::vector<int64_t>& dimensions, const std::filesystem::path& path) {
  int64_t product = 1;
  for (const int64_t dimension : dimensions) {
    if (__builtin_mul_overflow(product, dimension, &product)) {
      throw bad_input("the IDX header announces more bytes than there can be", path, kCopyAgain);
    }
  }
  return product;
}

}  // namespace

Idx read_idx(FileSystem& files, const std::filesystem::path& path, int dimensions) {
  if (!files.exists(path)) throw bad_input("there is no such file", path, "check the paths under [data]");
  if (files.is_directory(path)) throw bad_input("this is a folder, not an IDX file", path);
  ByteStream stream(files, path);
  check_magic(read_big_endian(stream, path), dimensions, path);
  Idx idx;
  for (int i = 0; i < dimensions; ++i) idx.dimensions.push_back(read_big_endian(stream, path));
  const int64_t announced = product(idx.dimensions, path);
  const auto too_short = [&] {
    return bad_input(
        "the file is too short: its header announces " + std::to_string(announced) + " bytes of data", path,
        kCopyAgain);
  };
  if (static_cast<uint64_t>(announced) > stream.most_bytes()) throw too_short();
  idx.bytes.resize(static_cast<size_t>(announced));
  if (stream.read(idx.bytes) < idx.bytes.size()) throw too_short();
  std::byte extra;
  if (stream.read({&extra, 1}) != 0) {
    throw bad_input(
        "the file is too long: its header announces " + std::to_string(announced) + " bytes of data", path,
        kCopyAgain);
  }
  return idx;
}

IdxPair read_idx_pair(FileSystem& files, const std::filesystem::path& images,
                      const std::filesystem::path& labels) {
  IdxPair pair{.images = read_idx(files, images, 3), .labels = read_idx(files, labels, 1)};
  const int64_t count = pair.images.dimensions[0], label_count = pair.labels.dimensions[0];
  if (count != label_count) {
    throw bad_input(std::to_string(count) + " images, but " + std::to_string(label_count) + " labels in " +
                        labels.string(),
                    images, "images and labels of one increment belong to the same samples");
  }
  if (count > 0 && pair.images.bytes.empty()) throw bad_input("the images have no pixels", images);
  return pair;
}

}  // namespace rekindle
