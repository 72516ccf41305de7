// SPDX-License-Identifier: Apache-2.0
#include "data/dataset.h"

#include <cmath>
#include <cstring>
#include <limits>
#include <map>

#include "tests/data/errors.h"
#include "tests/data/files.h"
#include "tests/support/temp_directory.h"

namespace rekindle {
namespace {

using testing::AllOf;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

class DatasetTest : public testing::Test {
 protected:
  // An increment of `samples` images of 2 x 3, all of its own.
  IncrementOptions images(const std::string& name, const std::string& pixel_bytes,
                          const std::string& label_bytes, bool packed = false) {
    const auto count = static_cast<uint32_t>(label_bytes.size());
    const std::string image_file = idx({count, 2, 3}, pixel_bytes), label_file = idx({count}, label_bytes);
    const auto path = directory_.path() / name;
    write_bytes(path.string() + "-images", packed ? gzip(image_file) : image_file);
    write_bytes(path.string() + "-labels", packed ? gzip(label_file) : label_file);
    return {
        .images = path.string() + "-images", .labels = path.string() + "-labels", .path = {}, .range = {}};
  }
  IncrementOptions tensors(const std::string& name, const std::vector<int64_t>& shape,
                           const std::vector<float>& x, const std::vector<int64_t>& y) {
    write_safetensors(directory_.path() / name, shape, x, y);
    return {.images = {}, .labels = {}, .path = directory_.path() / name, .range = {}};
  }
  static Dataset open(const std::vector<IncrementOptions>& increments, const std::string& kind = "idx",
                      const std::vector<std::string>& parent_classes = {}) {
    return Dataset(posix_file_system(), {.kind = kind, .increments = increments}, parent_classes);
  }
  static std::string error(const std::vector<IncrementOptions>& increments, const std::string& kind = "idx") {
    return error_of([&] { open(increments, kind); });
  }
  static IncrementOptions range(IncrementOptions increment, int64_t begin, int64_t end) {
    increment.range = {begin, end};
    return increment;
  }

  TempDirectory directory_;
};

std::string text_of(std::span<const std::byte> bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

TEST_F(DatasetTest, PutsIncrementsInARow) {
  const std::string first = pixels(4, 6), second = "uvwxyzabcdef";
  const Dataset data = open({images("a", first, {4, 0, 4, 1}), images("b", second, {0, 1})});
  EXPECT_EQ(data.size(), 6);
  EXPECT_EQ(data.element(), Element::kByte);
  EXPECT_EQ(data.shape().sample(), (std::vector<int64_t>{1, 2, 3}));
  EXPECT_EQ(data.shape().classes(), 3);
  EXPECT_THAT(data.classes(), ElementsAre("0", "1", "4"));
  EXPECT_EQ(text_of(data.sample(1)), first.substr(6, 6));
  EXPECT_EQ(text_of(data.sample(5)), "abcdef");
  EXPECT_EQ(data.label(0), 2);
  EXPECT_EQ(data.label(1), 0);
  EXPECT_EQ(data.label(5), 1);
  ASSERT_EQ(data.increments().size(), 2u);
  EXPECT_EQ(data.increments()[1].begin, 4);
  EXPECT_EQ(data.increments()[1].samples(), 2);
  EXPECT_THAT(data.increments()[1].path, HasSubstr("b-images"));
  EXPECT_THROW(data.sample(6), Error);
  EXPECT_THROW(data.label(-1), Error);
}

// Counts how often each file is opened.
class CountingFiles : public FileSystem {
 public:
  std::unique_ptr<ReadableFile> open(const Path& path) override {
    ++opened[path.filename()];
    return real_.open(path);
  }
  bool exists(const Path& path) override { return real_.exists(path); }
  bool is_directory(const Path& path) override { return real_.is_directory(path); }

  std::unique_ptr<WritableFile> create(const Path& path) override { return real_.create(path); }
  std::unique_ptr<WritableFile> append_to(const Path& path) override { return real_.append_to(path); }
  std::vector<std::string> list(const Path& path) override { return real_.list(path); }
  std::optional<std::string> read_link(const Path& path) override { return real_.read_link(path); }
  void create_directories(const Path& path) override { real_.create_directories(path); }
  bool create_directory(const Path& path) override { return real_.create_directory(path); }
  void rename(const Path& from, const Path& to) override { real_.rename(from, to); }
  void remove(const Path& path) override { real_.remove(path); }
  void remove_all(const Path& path) override { real_.remove_all(path); }
  void create_link(const Path& link, const std::string& target) override { real_.create_link(link, target); }
  void sync_directory(const Path& path) override { real_.sync_directory(path); }
  std::unique_ptr<FileLock> try_lock(const Path& path, std::string_view note) override {
    return real_.try_lock(path, note);
  }
  std::string lock_note(const Path& path) override { return real_.lock_note(path); }

  std::map<std::string, int> opened;

 private:
  FileSystem& real_ = posix_file_system();
};

TEST_F(DatasetTest, RangesOfOneFileAreUnpackedOnce) {
  const std::string bytes = pixels(6, 6);
  const IncrementOptions whole = images("a", bytes, {0, 1, 0, 1, 0, 1}, true);
  IncrementOptions other_spelling = range(whole, 0, 2);
  other_spelling.images = directory_.path() / "." / "a-images";
  CountingFiles files;
  const Dataset data(files, {.kind = "idx", .increments = {range(whole, 2, 6), other_spelling}});
  EXPECT_EQ(files.opened["a-images"], 1);
  EXPECT_EQ(data.size(), 6);
  EXPECT_EQ(text_of(data.sample(0)), bytes.substr(2 * 6, 6));
  EXPECT_EQ(text_of(data.sample(4)), bytes.substr(0, 6));
}

TEST_F(DatasetTest, DigestsNameContentAlone) {
  const auto digest = [](const IncrementOptions& increment) {
    return open({increment}).increments()[0].digest;
  };
  const std::string bytes = pixels(4, 6);
  const std::string plain = digest(images("a", bytes, {0, 1, 2, 1}));
  EXPECT_EQ(plain.size(), 32u);
  EXPECT_EQ(plain, digest(images("b", bytes, {0, 1, 2, 1}, true)));
  const auto longer = images("c", "before" + bytes + "behind", {2, 0, 1, 2, 1, 0});
  EXPECT_EQ(plain, digest(range(longer, 1, 5)));
  EXPECT_NE(plain, digest(range(longer, 1, 4)));
  EXPECT_NE(plain, digest(images("d", bytes, {0, 1, 2, 2})));
  std::string other = bytes;
  other.back() ^= 1;
  EXPECT_NE(plain, digest(images("e", other, {0, 1, 2, 1})));
  // Classes are numbered across increments, but what an increment is called does not depend on the others.
  EXPECT_EQ(plain, open({images("f", "abcdef", {'\7'}), images("a", bytes, {0, 1, 2, 1})}, "idx", {"9"})
                       .increments()[1]
                       .digest);
}

TEST_F(DatasetTest, DigestsTellShapesApart) {
  const std::vector<float> x{1, 2, 3, 4, 5, 6, 7, 8};
  const Dataset flat = open({tensors("flat", {2, 4}, x, {0, 1})}, "safetensors");
  const Dataset square = open({tensors("square", {2, 2, 2}, x, {0, 1})}, "safetensors");
  EXPECT_NE(flat.increments()[0].digest, square.increments()[0].digest);
}

TEST_F(DatasetTest, ClassesOfTheParentComeFirstInItsOrder) {
  const auto increment = images("a", pixels(4, 6), {'\2', '\x0b', '\0', '\3'});
  const Dataset data = open({increment}, "idx", {"3", "0", "7"});
  EXPECT_THAT(data.classes(), ElementsAre("3", "0", "7", "2", "11"));
  EXPECT_EQ(data.shape().classes(), 5);
  EXPECT_EQ(data.label(0), 3);
  EXPECT_EQ(data.label(1), 4);
  EXPECT_EQ(data.label(2), 1);
  EXPECT_EQ(data.label(3), 0);
  ASSERT_EQ(data.warnings().size(), 1u);
  EXPECT_THAT(data.warnings()[0], HasSubstr("no sample of class \"7\";"));
}

TEST_F(DatasetTest, WarnsOfAClassThatAnIncrementLacks) {
  const auto a = images("a", pixels(4, 6), {0, 1, 2, 3}), b = images("b", pixels(2, 6), {2, 2});
  const Dataset data = open({a, b});
  EXPECT_THAT(data.classes(), ElementsAre("0", "1", "2", "3"));
  ASSERT_EQ(data.warnings().size(), 1u);
  EXPECT_THAT(data.warnings()[0], AllOf(HasSubstr("increment 2"), HasSubstr("b-images"),
                                        HasSubstr("no sample of class \"0\", \"1\" and \"3\"")));
  EXPECT_THAT(open({a}).warnings(), IsEmpty());
  const Dataset many = open({images("c", pixels(100, 6), labels(100, 100)), a});
  EXPECT_THAT(many.warnings().back(), HasSubstr("\"13\" and 86 more"));
}

TEST_F(DatasetTest, ReadsTensors) {
  std::vector<float> x{1, -2, 3.5, 4, 5, 6, 7, 8, 9, 10, 11, 12};
  const auto increment = tensors("a", {3, 2, 1, 2}, x, {-1, 1 << 20, -1});
  const Dataset data = open({increment}, "safetensors");
  EXPECT_EQ(data.element(), Element::kFloat);
  EXPECT_EQ(data.shape().sample(), (std::vector<int64_t>{2, 1, 2}));
  EXPECT_THAT(data.classes(), ElementsAre("-1", "1048576"));
  EXPECT_EQ(std::memcmp(data.sample(1).data(), &x[4], 16), 0);
  const Dataset part = open({range(increment, 1, 3)}, "safetensors");
  EXPECT_EQ(part.size(), 2);
  EXPECT_EQ(std::memcmp(part.sample(1).data(), &x[8], 16), 0);
  EXPECT_EQ(part.label(0), 1);
  EXPECT_THAT(data.warnings(), IsEmpty());
  const Dataset normalised(posix_file_system(),
                           {.kind = "safetensors", .increments = {increment}, .mean = 0.5, .std = 2});
  EXPECT_THAT(normalised.warnings(), ElementsAre(HasSubstr("normalize is not applied")));
}

TEST_F(DatasetTest, RefusesSamplesThatAreNotFinite) {
  for (const float bad : {std::numeric_limits<float>::quiet_NaN(), -std::numeric_limits<float>::infinity()}) {
    const auto increment = tensors("a", {4, 2}, {1, 2, 3, 4, 5, bad, bad, 8}, {0, 1, 0, 1});
    EXPECT_THAT(error({increment}, "safetensors"), AllOf(HasSubstr("sample 2 "), HasSubstr("/a")));
    EXPECT_THAT(error({range(increment, 1, 3)}, "safetensors"), HasSubstr("sample 2 "));
    EXPECT_EQ(open({range(increment, 0, 2)}, "safetensors").size(), 2);
  }
}

TEST_F(DatasetTest, RefusesTensorsThatAreNoDataSet) {
  const auto write = [&](std::vector<safetensors::TensorView> tensors) {
    safetensors::write(posix_file_system(), directory_.path() / "a", std::move(tensors));
    return error({{.images = {}, .labels = {}, .path = directory_.path() / "a", .range = {}}}, "safetensors");
  };
  using safetensors::DType;
  const std::vector<float> x{1, 2, 3, 4};
  const std::vector<int64_t> y{0, 1}, three{0, 1, 2};
  const std::vector<double> wide{1, 2, 3, 4};
  EXPECT_THAT(write({view("y", DType::kI64, {2}, y)}), HasSubstr("no tensor named x"));
  EXPECT_THAT(write({view("x", DType::kF32, {2, 2}, x)}), HasSubstr("no tensor named y"));
  EXPECT_THAT(write({view("x", DType::kF64, {2, 2}, wide), view("y", DType::kI64, {2}, y)}),
              HasSubstr("tensor x is F64, expected F32 or I64"));
  EXPECT_THAT(write({view("x", DType::kF32, {2, 2}, x), view("y", DType::kF32, {4}, x)}),
              AllOf(HasSubstr("tensor y is F32, expected I64"), HasSubstr(".long()")));
  EXPECT_THAT(write({view("x", DType::kF32, {2, 2}, x), view("y", DType::kI64, {3}, three)}),
              HasSubstr("one class"));
  EXPECT_THAT(write({view("x", DType::kF32, {4}, x), view("y", DType::kI64, {2}, y)}),
              HasSubstr("dimension"));
  EXPECT_THAT(
      error({{.images = {}, .labels = {}, .path = directory_.path() / "b", .range = {}}}, "safetensors"),
      HasSubstr("no such file"));
}

// Equal bytes of one shape may be tokens or numbers: a data set is one or the other.
TEST_F(DatasetTest, TellsIntegersFromNumbers) {
  const std::vector<int64_t> x{1, 2, 3, 4}, y{0, 1};
  safetensors::write(
      posix_file_system(), directory_.path() / "tokens",
      {view("x", safetensors::DType::kI64, {2, 2}, x), view("y", safetensors::DType::kI64, {2}, y)});
  const IncrementOptions tokens{
      .images = {}, .labels = {}, .path = directory_.path() / "tokens", .range = {}};
  EXPECT_THAT(error({tokens, tensors("numbers", {2, 2}, {1, 2, 3, 4}, y)}, "safetensors"),
              AllOf(HasSubstr("[2] in F32"), HasSubstr("[2] in I64")));
}

TEST_F(DatasetTest, RefusesDuplicatesAndNothing) {
  const auto a = images("a", pixels(4, 6), {0, 1, 2, 3}),
             copy = images("copy", pixels(4, 6), {0, 1, 2, 3}, true);
  EXPECT_THAT(
      error({a, images("b", "abcdef", {0}), copy}),
      AllOf(HasSubstr("increment 3"), HasSubstr("copy-images"), HasSubstr("same samples as increment 1")));
  EXPECT_THAT(error({}), HasSubstr("no increment"));
  EXPECT_THAT(error({images("empty", "", "")}), HasSubstr("holds no samples"));
  EXPECT_THAT(error({range(a, 2, 2)}), HasSubstr("holds no samples"));
}

TEST_F(DatasetTest, RefusesRangesAndShapesThatDoNotFit) {
  const auto a = images("a", pixels(4, 6), {0, 1, 2, 3});
  EXPECT_THAT(error({range(a, 2, 5)}),
              AllOf(HasSubstr("[2, 5)"), HasSubstr("4 samples"), HasSubstr("a-images")));
  EXPECT_THAT(error({range(a, -1, 2)}), HasSubstr("[-1, 2)"));
  EXPECT_THAT(error({range(a, 3, 2)}), HasSubstr("[3, 2)"));
  const auto tall = directory_.path() / "tall";
  write_bytes(tall, idx({4, 3, 2}, pixels(4, 6)));
  EXPECT_THAT(error({a, {.images = tall, .labels = a.labels, .path = {}, .range = {}}}),
              AllOf(HasSubstr("[1, 3, 2]"), HasSubstr("[1, 2, 3]"), HasSubstr("tall")));
  EXPECT_THAT(error({a}, "parquet"), HasSubstr("parquet"));
}

}  // namespace
}  // namespace rekindle
