// SPDX-License-Identifier: Apache-2.0
#include "checkpoints/manifest.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "core/digest.h"
#include "core/error.h"

namespace rekindle {
namespace {

using testing::HasSubstr;

const std::string kSomeDigest = "0123456789abcdef0123456789abcdef";

Manifest some_manifest() {
  return Manifest(
      {{"state.json", 10, digest_of("state")}, {"model.safetensors", 1u << 20, digest_of("model")}});
}

std::string refusal(const std::string& text) {
  try {
    Manifest::parse(text, "a/manifest.json");
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ExitCode::kBadInput);
    EXPECT_EQ(error.details().where, "a/manifest.json");
    return error.what();
  }
  return "accepted";
}

TEST(Manifest, ReadsBackWhatItSays) {
  const Manifest manifest = some_manifest();
  const Manifest again = Manifest::parse(manifest.text(), "");
  EXPECT_EQ(again.files(), manifest.files());
  EXPECT_EQ(again.digest(), manifest.digest());
  EXPECT_EQ(again.files().front().name, "model.safetensors");
  EXPECT_EQ(again.find("state.json")->bytes, 10u);
  EXPECT_EQ(again.find("other"), nullptr);
  EXPECT_EQ(again.bytes(), (1u << 20) + 10u);
}

// Others can check it: this is the recipe in the header.
TEST(Manifest, ItsDigestIsThatOfTheLineWithoutIt) {
  const Manifest manifest({{"a", 1, kSomeDigest}});
  const std::string files = R"("files":{"a":{"bytes":1,"digest":")" + kSomeDigest + R"("}},"format":1})";
  EXPECT_EQ(manifest.digest(), digest_of("{" + files));
  EXPECT_EQ(manifest.text(), R"({"digest":")" + manifest.digest() + R"(",)" + files);
}

TEST(Manifest, ItsDigestNamesContentAndNotOrder) {
  const FileRecord a{"a", 1, digest_of("a")}, b{"b", 2, digest_of("b")};
  EXPECT_EQ(Manifest({a, b}).digest(), Manifest({b, a}).digest());
  EXPECT_NE(Manifest({a, b}).digest(), Manifest({a}).digest());
  EXPECT_NE(Manifest({{"a", 1, digest_of("b")}}).digest(), Manifest({a}).digest());
  EXPECT_NE(Manifest({{"a", 2, digest_of("a")}}).digest(), Manifest({a}).digest());
}

TEST(Manifest, EveryFlippedBitIsFound) {
  const std::string text = some_manifest().text();
  ASSERT_EQ(refusal(text), "accepted");
  for (size_t bit = 0; bit < text.size() * 8; ++bit) {
    std::string other = text;
    other[bit / 8] = static_cast<char>(other[bit / 8] ^ (1 << bit % 8));
    EXPECT_NE(refusal(other), "accepted") << bit << ": " << other;
  }
}

TEST(Manifest, EveryMissingOrAddedByteIsFound) {
  const std::string text = some_manifest().text();
  for (size_t i = 0; i < text.size(); ++i) {
    EXPECT_NE(refusal(text.substr(0, i)), "accepted") << i;
    EXPECT_NE(refusal(text.substr(0, i) + text.substr(i + 1)), "accepted") << i;
    EXPECT_NE(refusal(text.substr(0, i) + " " + text.substr(i)), "accepted") << i;
  }
  EXPECT_NE(refusal(text + "\n"), "accepted");
}

TEST(Manifest, AnotherFormatIsRefusedWithBothVersions) {
  std::string newer = some_manifest().text();
  newer.replace(newer.find("\"format\":1"), 10, "\"format\":7");
  EXPECT_THAT(refusal(newer), HasSubstr("has format 7, this program reads format 1"));
  EXPECT_THAT(refusal(newer), HasSubstr("a newer version"));
  EXPECT_THAT(refusal(R"({"format":2,"parts":[]})"), HasSubstr("format 2"));  // whatever else it has
  EXPECT_THAT(refusal(R"({"format":0})"), HasSubstr("an older version"));
}

TEST(Manifest, NamesThatLeadElsewhereAreRefused) {
  for (const char* name : {"../model.safetensors", "/etc/passwd", "a/b", "..", ".", "", ".hidden", "a\\b",
                           "a b", "a\nb", "manifest.json"}) {
    EXPECT_THROW(Manifest({{name, 1, kSomeDigest}}), Error) << name;
  }
  EXPECT_THROW(Manifest({{std::string("a\0b", 3), 1, kSomeDigest}}), Error);
  EXPECT_THROW(Manifest({{std::string(201, 'a'), 1, kSomeDigest}}), Error);
  EXPECT_THAT(
      refusal(R"({"digest":"","files":{"../x":{"bytes":1,"digest":")" + kSomeDigest + R"("}},"format":1})"),
      HasSubstr("../x"));
}

TEST(Manifest, DuplicatesAbsurdSizesAndFalseDigestsAreRefused) {
  EXPECT_THROW(Manifest({{"a", 1, kSomeDigest}, {"a", 1, kSomeDigest}}), Error);
  EXPECT_THROW(Manifest({{"a", (uint64_t{1} << 50) + 1, kSomeDigest}}), Error);
  EXPECT_NO_THROW(Manifest({{"a", uint64_t{1} << 50, kSomeDigest}}));
  EXPECT_THROW(Manifest({{"a", 1, "short"}}), Error);
  EXPECT_THROW(Manifest({{"a", 1, std::string(32, 'A')}}), Error);
  const std::string entry = R"("a":{"bytes":1,"digest":")" + kSomeDigest + R"("})";
  EXPECT_THAT(refusal(R"({"digest":"","files":{)" + entry + "," + entry + R"(},"format":1})"),
              HasSubstr("twice"));
}

}  // namespace
}  // namespace rekindle
