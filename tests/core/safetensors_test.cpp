// SPDX-License-Identifier: Apache-2.0
#include "core/safetensors.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <cstring>
#include <fstream>

#include "core/digest.h"
#include "core/error.h"
#include "tests/support/temp_directory.h"

namespace rekindle::safetensors {
namespace {

using testing::HasSubstr;

template <typename T>
std::span<const std::byte> bytes_of(const std::vector<T>& values) {
  return std::as_bytes(std::span(values));
}

class SafetensorsTest : public testing::Test {
 protected:
  std::filesystem::path path(const std::string& name) const { return directory_.path() / name; }

  // A file made by hand: the header's true length, the header, data.
  std::filesystem::path file(const std::string& header, const std::string& data = "") {
    const uint64_t length = header.size();
    std::string text(8, '\0');
    std::memcpy(text.data(), &length, 8);
    return raw(text + header + data);
  }
  std::filesystem::path raw(const std::string& text) {
    write_synced(files_, path("by-hand"), text);
    return path("by-hand");
  }
  std::string refusal(const std::filesystem::path& path) {
    try {
      Reader reader(files_, path);
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ExitCode::kBadInput);
      EXPECT_EQ(error.details().where, path.string());
      return error.summary();
    }
    return "accepted";
  }
  template <typename T>
  std::vector<T> read(const Reader& reader, const std::string& name) {
    const TensorInfo* tensor = reader.find(name);
    if (!tensor) return {};
    std::vector<T> values(tensor->bytes() / sizeof(T));
    reader.read(*tensor, 0, std::as_writable_bytes(std::span(values)));
    return values;
  }

  TempDirectory directory_;
  FileSystem& files_ = posix_file_system();
};

TEST_F(SafetensorsTest, ReadsBackWhatItWrote) {
  const std::vector<float> weight = {1, 2, 3, 4, 5, 6};
  const std::vector<int64_t> count = {-7};
  const std::vector<uint8_t> bits = {1, 0, 1};
  const std::string digest = write(files_, path("a"),
                                   {{"bits", DType::kBool, {3}, bytes_of(bits)},
                                    {"empty", DType::kF32, {4, 0}, {}},
                                    {"weight", DType::kF32, {2, 3}, bytes_of(weight)},
                                    {"cöunt \"\n", DType::kI64, {}, bytes_of(count)}},
                                   {{"format", "pt"}, {"note", "a \"b\""}});
  EXPECT_EQ(digest, digest_of_file(files_, path("a")));
  const Reader reader(files_, path("a"));
  EXPECT_EQ(reader.tensors().size(), 4u);
  EXPECT_EQ(reader.metadata(), (Metadata{{"format", "pt"}, {"note", "a \"b\""}}));
  EXPECT_EQ(read<float>(reader, "weight"), weight);
  EXPECT_EQ(read<int64_t>(reader, "cöunt \"\n"), count);
  EXPECT_EQ(read<uint8_t>(reader, "bits"), bits);
  EXPECT_EQ(reader.find("weight")->shape, (std::vector<int64_t>{2, 3}));
  EXPECT_EQ(reader.find("weight")->elements(), 6);
  EXPECT_EQ(reader.find("empty")->bytes(), 0u);
  EXPECT_EQ(reader.find("none"), nullptr);
  EXPECT_EQ(reader.header_bytes() % 8, 0u);
  EXPECT_EQ(reader.file_bytes(), std::filesystem::file_size(path("a")));

  std::vector<float> part(2);
  reader.read(*reader.find("weight"), 12, std::as_writable_bytes(std::span(part)));
  EXPECT_EQ(part, (std::vector<float>{4, 5}));
  EXPECT_THROW(reader.read(*reader.find("weight"), 20, std::as_writable_bytes(std::span(part))), Error);
}

TEST_F(SafetensorsTest, EqualContentGivesEqualBytesInAnyOrder) {
  const std::vector<float> a = {1}, b = {2};
  const TensorView first{"a", DType::kF32, {1}, bytes_of(a)}, second{"b", DType::kF32, {1}, bytes_of(b)};
  EXPECT_EQ(write(files_, path("1"), {first, second}), write(files_, path("2"), {second, first}));
  EXPECT_EQ(read_text(files_, path("1")), read_text(files_, path("2")));
}

TEST_F(SafetensorsTest, WideTypesComeFirstThenNames) {
  const std::vector<std::byte> eight(8);
  const auto view = [&](const char* name, DType dtype) {
    return TensorView{name, dtype, {1}, std::span(eight).first(static_cast<size_t>(size_of(dtype)))};
  };
  write(files_, path("a"),
        {view("z", DType::kF32), view("a", DType::kU8), view("b", DType::kF32), view("c", DType::kI64)});
  std::string order;
  const Reader reader(files_, path("a"));
  for (const TensorInfo& tensor : reader.tensors()) order += tensor.name;
  EXPECT_EQ(order, "cbza");
}

// So many that whatever looks at all of them for each would not come to an end.
TEST_F(SafetensorsTest, AMillionTensorsAreReadInTheTimeOfTheirHeader) {
  constexpr int kCount = 1'000'000;
  std::string header = "{";
  for (int i = 0; i < kCount; ++i) {
    header += (i > 0 ? ",\"" : "\"") + std::to_string(i) + R"(":{"dtype":"U8","shape":[],"data_offsets":[)" +
              std::to_string(i) + "," + std::to_string(i + 1) + "]}";
  }
  const auto path = file(header + "}", std::string(kCount, 'x'));
  EXPECT_EQ(Reader(files_, path).tensors().size(), static_cast<size_t>(kCount));
}

// Two to a byte in the file; here and in LibTorch a pair is an element.
TEST_F(SafetensorsTest, QuartersOfABytePairUp) {
  const std::vector<std::byte> six(6);
  write(files_, path("quarters"), {{"a", DType::kF4, {2, 3}, six}});
  EXPECT_THAT(read_text(files_, path("quarters")),
              HasSubstr(R"("a":{"dtype":"F4","shape":[2,6],"data_offsets":[0,6]})"));
  EXPECT_EQ(Reader(files_, path("quarters")).find("a")->shape, (std::vector<int64_t>{2, 3}));
  EXPECT_THAT(refusal(file(R"({"a":{"dtype":"F4","shape":[3],"data_offsets":[0,1]}})", "x")),
              HasSubstr("odd"));
}

TEST_F(SafetensorsTest, WhatCannotBeWrittenIsRefusedBeforeAnythingIs) {
  const std::vector<float> two(2);
  const TensorView good{"a", DType::kF32, {2}, bytes_of(two)};
  const std::vector<std::vector<TensorView>> bad = {{good, good},
                                                    {{"a", DType::kF32, {3}, bytes_of(two)}},
                                                    {{"a", DType::kF32, {-2}, bytes_of(two)}},
                                                    {{"__metadata__", DType::kF32, {2}, bytes_of(two)}},
                                                    {{"\xff", DType::kF32, {2}, bytes_of(two)}}};
  for (const auto& tensors : bad) {
    EXPECT_THROW(write(files_, path("never"), tensors), Error) << tensors.front().name;
    EXPECT_FALSE(files_.exists(path("never")));
  }
}

TEST_F(SafetensorsTest, TakesTheSmallestFiles) {
  EXPECT_EQ(refusal(file("{}")), "accepted");
  EXPECT_EQ(refusal(file("{}      ")), "accepted");
  EXPECT_EQ(refusal(file(R"({"__metadata__":{"a":"b"}})")), "accepted");
  EXPECT_EQ(refusal(file(R"({"a":{"dtype":"F32","shape":[],"data_offsets":[0,4]}})", "1234")), "accepted");
}

TEST_F(SafetensorsTest, RefusesAFileThatIsNone) {
  EXPECT_THAT(refusal(raw("")), HasSubstr("0 bytes"));
  EXPECT_THAT(refusal(raw("1234567")), HasSubstr("7 bytes"));
  EXPECT_THAT(refusal(raw(std::string("\x10\0\0\0\0\0\0\0{}", 10))), HasSubstr("claims 16 bytes"));
  EXPECT_THAT(refusal(raw(std::string(8, '\xff') + "{}")), HasSubstr("over 100 MB"));
  EXPECT_THAT(refusal(raw(std::string("\x01\xe1\xf5\x05\0\0\0\0{}", 10))),
              HasSubstr("100000001 bytes, over"));
  EXPECT_THAT(refusal(file("")), HasSubstr("start with '{'"));
  EXPECT_THAT(refusal(file(" {}")), HasSubstr("start with '{'"));
  EXPECT_THAT(refusal(file("\xef\xbb\xbf{}")), HasSubstr("start with '{'"));
  EXPECT_THAT(refusal(file("{]")), HasSubstr("bad JSON"));
  EXPECT_THAT(refusal(file("{\"\xff\":1}")), HasSubstr("UTF-8"));
  EXPECT_THAT(refusal(file(std::string("{}\0", 3))), HasSubstr("zero byte"));
  EXPECT_THAT(refusal(file("{} {}")), HasSubstr("bad JSON"));
  EXPECT_THAT(refusal(file("{\"a\":" + std::string(100'000, '[') + "}")), HasSubstr("too deep"));
}

TEST_F(SafetensorsTest, RefusesABadRecordAndNamesItsTensor) {
  const std::vector<std::pair<std::string, std::string>> records = {
      {R"(7)", "not an object"},
      {R"({"shape":[1],"data_offsets":[0,4]})", "no dtype"},
      {R"({"dtype":"F32","data_offsets":[0,4]})", "no shape"},
      {R"({"dtype":"F32","shape":[1]})", "no data_offsets"},
      {R"({"dtype":"F32","shape":[1],"data_offsets":[0,4],"scale":2})", "unknown key \"scale\""},
      {R"({"dtype":"F31","shape":[1],"data_offsets":[0,4]})", "unknown dtype \"F31\""},
      {R"({"dtype":32,"shape":[1],"data_offsets":[0,4]})", "dtype is not a text"},
      {R"({"dtype":"F32","shape":1,"data_offsets":[0,4]})", "shape is not a list"},
      {R"({"dtype":"F32","shape":[-1],"data_offsets":[0,4]})", "-1"},
      {R"({"dtype":"F32","shape":[-0],"data_offsets":[0,4]})", "no whole number"},
      {R"({"dtype":"F32","shape":[1.0],"data_offsets":[0,4]})", "1.0"},
      {R"({"dtype":"F32","shape":["1"],"data_offsets":[0,4]})", "no whole number"},
      {R"({"dtype":"F32","shape":[9223372036854775808],"data_offsets":[0,4]})", "no whole number"},
      {R"({"dtype":"F32","shape":[1],"data_offsets":[0,1e1]})", "no whole number"},
      {R"({"dtype":"F32","shape":[1],"data_offsets":[-4,0]})", "-4"},
      {R"({"dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,4]})", "overflows"},
      {R"({"dtype":"F32","shape":[4611686018427387904],"data_offsets":[0,0]})", "overflows"},
      {R"({"dtype":"F32","shape":[1],"data_offsets":[4,0]})", "end before they begin"},
      {R"({"dtype":"F32","shape":[1],"data_offsets":[0,4,8]})", "not a pair"},
      {R"({"dtype":"F32","shape":[2],"data_offsets":[0,4]})", "takes 8 bytes"},
      {R"({"dtype":"F32","shape":[1],"shape":[1],"data_offsets":[0,4]})", "\"shape\" stands twice"},
  };
  for (const auto& [record, reason] : records) {
    const std::string answer = refusal(file("{\"a tensor\":" + record + "}", "1234"));
    EXPECT_THAT(answer, HasSubstr(reason)) << record;
    if (reason.find("twice") != std::string::npos) continue;  // found while parsing, before there are tensors
    EXPECT_THAT(answer, HasSubstr("\"a tensor\"")) << record;
  }
  const std::string good = R"({"dtype":"F32","shape":[1],"data_offsets":[0,4]})";
  EXPECT_THAT(refusal(file("{\"a\":" + good + ",\"a\":" + good + "}", "1234")),
              HasSubstr("\"a\" stands twice"));
  EXPECT_THAT(refusal(file(R"({"__metadata__":{"a":1}})")), HasSubstr("\"a\" is not a text"));
  EXPECT_THAT(refusal(file(R"({"__metadata__":"a"})")), HasSubstr("__metadata__ is not an object"));
}

TEST_F(SafetensorsTest, RefusesGapsOverlapsAndBytesThatBelongToNone) {
  const auto two = [](int begin, int end) {
    return R"({"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]},"b":{"dtype":"U8","shape":[)" +
           std::to_string(end - begin) + R"(],"data_offsets":[)" + std::to_string(begin) + "," +
           std::to_string(end) + "]}}";
  };
  EXPECT_EQ(refusal(file(two(4, 6), "123456")), "accepted");
  EXPECT_THAT(refusal(file(two(5, 6), "123456")), HasSubstr("\"b\": a gap"));
  EXPECT_THAT(refusal(file(two(3, 6), "123456")), HasSubstr("\"b\": it overlaps"));
  EXPECT_THAT(refusal(file(two(0, 4), "1234")), HasSubstr("\"b\": it overlaps"));
  EXPECT_THAT(refusal(file(two(4, 6), "1234567")), HasSubstr("1 bytes after the last tensor"));
  EXPECT_THAT(refusal(file(two(4, 6), "12345")), HasSubstr("\"b\": it ends at byte 6, the file has 5"));
  EXPECT_THAT(refusal(file("{}", "x")), HasSubstr("1 bytes after the last tensor"));
}

// No flip may crash, hang or ask for memory without bound; one in the header is mostly refused, and where it
// is not (a letter of a name) the tensors still lie within the file.
TEST_F(SafetensorsTest, SurvivesEveryFlippedBitOfItsHeader) {
  const std::vector<float> values(6);
  write(files_, path("a"), {{"w", DType::kF32, {2, 3}, bytes_of(values)}}, {{"k", "v"}});
  const std::string text = read_text(files_, path("a"));
  const uint64_t header = Reader(files_, path("a")).header_bytes();
  for (size_t bit = 0; bit < header * 8; ++bit) {
    std::string other = text;
    other[bit / 8] = static_cast<char>(other[bit / 8] ^ (1 << bit % 8));
    try {
      const Reader reader(files_, raw(other));
      for (const TensorInfo& tensor : reader.tensors()) {
        EXPECT_LE(reader.header_bytes() + tensor.end, reader.file_bytes()) << bit;
      }
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ExitCode::kBadInput) << bit;
    }
  }
}

class WithPython : public SafetensorsTest {
 protected:
  void SetUp() override {
    if (!std::getenv("REKINDLE_PYTHON"))
      GTEST_SKIP() << "REKINDLE_PYTHON names no Python with safetensors and numpy";
  }
  // Runs a script in the temporary directory.
  int python(const std::string& script) {
    write_synced(files_, path("script.py"), "import numpy as np\nimport safetensors.numpy as st\n" + script);
    const std::string command =
        "cd '" + directory_.path().string() + "' && '" + std::getenv("REKINDLE_PYTHON") + "' script.py";
    return std::system(command.c_str());
  }
};

TEST_F(WithPython, ReadsWhatWeWriteAndWritesTheSameBytes) {
  const std::vector<float> weight = {1.5f, -2, 3, 4, 5, 6};
  const std::vector<double> mean = {0.1, 0.2};
  const std::vector<int64_t> count = {-7};
  const std::vector<int32_t> index = {3, 2, 1};
  const std::vector<uint8_t> pixels = {0, 128, 255}, bits = {1, 0};
  const std::vector<uint16_t> halves = {0x3c00, 0xc000};  // 1, -2
  write(files_, path("ours"),
        {{"pixels", DType::kU8, {3}, bytes_of(pixels)},
         {"ünï \"q\"\t", DType::kF32, {2, 3}, bytes_of(weight)},
         {"b", DType::kF32, {3, 0}, {}},
         {"mean", DType::kF64, {2}, bytes_of(mean)},
         {"count", DType::kI64, {}, bytes_of(count)},
         {"index", DType::kI32, {3, 1}, bytes_of(index)},
         {"halves", DType::kF16, {2}, bytes_of(halves)},
         {"bits", DType::kBool, {2}, bytes_of(bits)}},
        {{"format", "pt"}});
  EXPECT_EQ(python(R"(
from safetensors import safe_open
got = st.load_file("ours")
assert sorted(got) == sorted(["pixels", "ünï \"q\"\t", "b", "mean", "count", "index", "halves", "bits"]), sorted(got)
weight = got["ünï \"q\"\t"]
assert weight.dtype == np.float32 and weight.tolist() == [[1.5, -2, 3], [4, 5, 6]]
assert got["b"].shape == (3, 0)
assert got["mean"].tolist() == [0.1, 0.2] and got["mean"].dtype == np.float64
assert got["count"].shape == () and got["count"] == -7
assert got["index"].tolist() == [[3], [2], [1]] and got["index"].dtype == np.int32
assert got["halves"].tolist() == [1, -2] and got["halves"].dtype == np.float16
assert got["pixels"].tolist() == [0, 128, 255]
assert got["bits"].tolist() == [True, False] and got["bits"].dtype == np.bool_
with safe_open("ours", "numpy") as f: assert f.metadata() == {"format": "pt"}
st.save_file(got, "theirs", {"format": "pt"})
)"),
            0);
  EXPECT_EQ(read_text(files_, path("ours")), read_text(files_, path("theirs")));
}

TEST_F(WithPython, WritesWhatWeRead) {
  ASSERT_EQ(python(R"(
st.save_file({
    "layers.0.weight": np.arange(6, dtype=np.float32).reshape(2, 3) / 4,
    "y": np.array([1, -2], dtype=np.int64),
    "x": np.arange(5, dtype=np.uint8),
    "scalar": np.array(2.5, dtype=np.float64),
    "none": np.zeros((0, 2), dtype=np.int16)}, "theirs", {"source": "pythön"})
)"),
            0);
  const Reader reader(files_, path("theirs"));
  EXPECT_EQ(reader.tensors().size(), 5u);
  EXPECT_EQ(read<float>(reader, "layers.0.weight"), (std::vector<float>{0, 0.25, 0.5, 0.75, 1, 1.25}));
  EXPECT_EQ(read<int64_t>(reader, "y"), (std::vector<int64_t>{1, -2}));
  EXPECT_EQ(read<uint8_t>(reader, "x"), (std::vector<uint8_t>{0, 1, 2, 3, 4}));
  EXPECT_EQ(read<double>(reader, "scalar"), (std::vector<double>{2.5}));
  EXPECT_EQ(reader.find("none")->dtype, DType::kI16);
  EXPECT_EQ(reader.find("none")->shape, (std::vector<int64_t>{0, 2}));
  EXPECT_EQ(reader.metadata(), (Metadata{{"source", "pythön"}}));
}

TEST_F(WithPython, BothRefuseWhatIsBroken) {
  file(R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,4]}})", "1234");
  EXPECT_EQ(python("try: st.load_file('by-hand')\nexcept Exception: pass\nelse: raise SystemExit(1)\n"), 0);
  EXPECT_NE(refusal(path("by-hand")), "accepted");
}

}  // namespace
}  // namespace rekindle::safetensors
