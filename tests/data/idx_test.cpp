// SPDX-License-Identifier: Apache-2.0
#include "data/idx.h"

#include <array>

#include "tests/data/errors.h"
#include "tests/data/files.h"
#include "tests/support/temp_directory.h"

namespace rekindle {
namespace {

using testing::AllOf;
using testing::HasSubstr;

class IdxTest : public testing::Test {
 protected:
  std::filesystem::path write(const std::string& name, const std::string& bytes) {
    write_bytes(directory_.path() / name, bytes);
    return directory_.path() / name;
  }
  Idx read(const std::string& bytes, int dimensions) {
    return read_idx(posix_file_system(), write("file", bytes), dimensions);
  }
  std::string error(const std::string& bytes, int dimensions = 3) {
    return error_of([&] { read(bytes, dimensions); });
  }

  TempDirectory directory_;
};

std::string text_of(const Idx& idx) {
  return {reinterpret_cast<const char*>(idx.bytes.data()), idx.bytes.size()};
}

TEST_F(IdxTest, ReadsPlainAndGzip) {
  const std::string elements = pixels(5, 6);
  for (const bool packed : {false, true}) {
    const std::string bytes = idx({5, 2, 3}, elements);
    const Idx images = read(packed ? gzip(bytes) : bytes, 3);
    EXPECT_EQ(images.dimensions, (std::vector<int64_t>{5, 2, 3}));
    EXPECT_EQ(text_of(images), elements);
  }
  EXPECT_EQ(read(idx({3}, "abc"), 1).dimensions, std::vector<int64_t>{3});
}

TEST_F(IdxTest, ReadsFilesLongerThanItsBuffer) {
  const std::string elements = pixels(1000, 28 * 28);
  EXPECT_EQ(text_of(read(idx({1000, 28, 28}, elements), 3)), elements);
  EXPECT_EQ(text_of(read(gzip(idx({1000, 28, 28}, elements)), 3)), elements);
}

TEST_F(IdxTest, ReadsSeveralGzipStreamsInARow) {
  const std::string bytes = idx({5, 2, 3}, pixels(5, 6));
  EXPECT_EQ(text_of(read(gzip(bytes.substr(0, 20)) + gzip(bytes.substr(20)), 3)), pixels(5, 6));
}

TEST_F(IdxTest, RefusesAFileCutAtAnyByte) {
  const std::string plain = idx({5, 2, 3}, pixels(5, 6)), packed = gzip(plain);
  for (const std::string& whole : {plain, packed}) {
    for (size_t length = 0; length < whole.size(); ++length) {
      EXPECT_THAT(error(whole.substr(0, length)), HasSubstr("file\n  hint: "))
          << length << " of " << whole.size();
    }
  }
}

TEST_F(IdxTest, RefusesTrailingBytes) {
  const std::string plain = idx({5, 2, 3}, pixels(5, 6));
  EXPECT_THAT(error(plain + "x"), HasSubstr("too long"));
  EXPECT_THAT(error(gzip(plain + "x")), HasSubstr("too long"));
  EXPECT_THAT(error(gzip(plain) + "x"), HasSubstr("bytes after the gzip stream"));
  EXPECT_THAT(error(gzip(plain) + "\x1fxyz"), HasSubstr("damaged gzip"));
}

TEST_F(IdxTest, RefusesAFlippedByteOfAPackedFile) {
  std::string packed = gzip(idx({5, 2, 3}, pixels(5, 6)));
  packed[packed.size() - 6] ^= 1;  // of the checksum
  EXPECT_THAT(error(packed), HasSubstr("damaged gzip data"));
}

TEST_F(IdxTest, RefusesOtherMagicNumbers) {
  EXPECT_THAT(error(idx({3}, "abc"), 3),
              AllOf(HasSubstr("0x00000801"), HasSubstr("0x00000803"), HasSubstr("swapped")));
  std::string floats = idx({1, 1, 1}, "a");
  floats[2] = '\x0d';
  EXPECT_THAT(error(floats), HasSubstr("IDX magic 0x00000d03"));
  EXPECT_THAT(error("\x89PNG\r\n\x1a\n"), HasSubstr("IDX magic 0x89504e47"));
}

// Neither may ask for the memory that the header announces.
TEST_F(IdxTest, RefusesSizesThatCannotBe) {
  EXPECT_THAT(error(idx({0xffffffff, 0xffffffff, 0xffffffff}, "a")),
              HasSubstr("more bytes than there can be"));
  EXPECT_THAT(error(idx({0x7fffffff, 0x7fffffff, 2}, "a")), HasSubstr("too short"));
  EXPECT_THAT(error(gzip(idx({0x7fffffff, 0x7fffffff, 2}, "a"))), HasSubstr("too short"));
}

TEST_F(IdxTest, RefusesWhatIsNotAFile) {
  const auto read_path = [](const std::filesystem::path& path) {
    return error_of([&] { read_idx(posix_file_system(), path, 3); });
  };
  EXPECT_THAT(read_path(directory_.path() / "nothing"),
              AllOf(HasSubstr("no such file"), HasSubstr("nothing")));
  EXPECT_THAT(read_path(directory_.path()), HasSubstr("folder"));
}

TEST_F(IdxTest, PairsBelongTogether) {
  const auto images = write("images", idx({5, 2, 3}, pixels(5, 6)));
  const auto read_pair = [&](const std::string& label_bytes, const std::filesystem::path& image_path) {
    return read_idx_pair(posix_file_system(), image_path, write("labels", label_bytes));
  };
  EXPECT_EQ(text_of(read_pair(idx({5}, "\1\2\3\4\5"), images).labels), "\1\2\3\4\5");
  EXPECT_THAT(error_of([&] { read_pair(idx({4}, "abcd"), images); }),
              AllOf(HasSubstr("5 images, but 4 labels"), HasSubstr("labels"), HasSubstr("images")));
  const auto hollow = write("hollow", idx({5, 0, 3}, ""));
  EXPECT_THAT(error_of([&] { read_pair(idx({5}, "abcde"), hollow); }), HasSubstr("no pixels"));
}

TEST(FashionMnistTest, IsReadWhole) {
  const std::filesystem::path folder = "/usr/share/datasets/fashion-mnist";
  if (!std::filesystem::exists(folder)) GTEST_SKIP() << "dataset-fashion-mnist is not installed";
  const IdxPair train = read_idx_pair(posix_file_system(), folder / "train-images-idx3-ubyte.gz",
                                      folder / "train-labels-idx1-ubyte.gz");
  EXPECT_EQ(train.images.dimensions, (std::vector<int64_t>{60000, 28, 28}));
  std::array<int, 10> counts{};
  for (const std::byte label : train.labels.bytes) ++counts.at(std::to_integer<size_t>(label));
  EXPECT_THAT(counts, testing::Each(6000));
  EXPECT_EQ(std::to_integer<int>(train.labels.bytes[0]), 9);
}

}  // namespace
}  // namespace rekindle
