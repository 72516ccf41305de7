// SPDX-License-Identifier: Apache-2.0
#include "checkpoints/checkpoint.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "core/error.h"
#include "tests/checkpoints/saved.h"
#include "tests/support/temp_directory.h"

namespace rekindle {
namespace {

using testing::HasSubstr;
using testing::Not;

class CheckpointTest : public testing::Test {
 protected:
  CheckpointTest() : store_(files_, directory_.path() / "run" / "checkpoints", CheckpointOptions{}) {
    path_ = save(files_, store_, 12, 1.5f).path;
  }
  std::filesystem::path path(const std::string& name) const { return directory_.path() / name; }

  std::string refusal(const std::filesystem::path& path, Verify verify = Verify::kAll) {
    try {
      open_checkpoint(files_, path, verify);
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ExitCode::kBadInput);
      return error.what();
    }
    return "opened";
  }

  TempDirectory directory_;
  FileSystem& files_ = posix_file_system();
  CheckpointStore store_;
  std::filesystem::path path_;
};

TEST_F(CheckpointTest, GivesBackAllThatWasSaved) {
  const Checkpoint checkpoint = open_checkpoint(files_, path_);
  EXPECT_EQ(checkpoint.path, path_);
  EXPECT_EQ(checkpoint.state, some_state(12));
  EXPECT_EQ(checkpoint.lineage, some_lineage());
  EXPECT_EQ(checkpoint.card, some_card());
  EXPECT_EQ(checkpoint.digest(), checkpoint.manifest.digest());
  EXPECT_EQ(first_weight(files_, checkpoint), 1.5f);
  std::vector<float> moments(100);
  OptimizerParts(files_, checkpoint.path, checkpoint.manifest)
      .read("w", "momentum", {0, 100}, std::as_writable_bytes(std::span(moments)));
  EXPECT_EQ(moments, std::vector<float>(100, 1.5f));
}

TEST_F(CheckpointTest, IsWhatALinkLedToWhenItWasOpened) {
  EXPECT_EQ(open_checkpoint(files_, path_.parent_path() / names::kLatest).path, path_);
  EXPECT_EQ(open_checkpoint(files_, path_.parent_path() / "latest/").path, path_);
  files_.create_link(path("promoted"), "run/checkpoints/latest");
  EXPECT_EQ(open_checkpoint(files_, path("promoted")).path, path_);
  files_.create_link(path("absolute"), path_.string());
  EXPECT_EQ(open_checkpoint(files_, path("absolute")).path, path_);
  files_.create_link(path("circle"), "circle");
  EXPECT_THAT(refusal(path("circle")), HasSubstr("circle"));
}

TEST_F(CheckpointTest, AFlippedByteInAnyFileIsFoundAndTheFileNamed) {
  const Manifest manifest = open_checkpoint(files_, path_).manifest;
  ASSERT_EQ(manifest.files().size(), 6u);
  for (const FileRecord& file : manifest.files()) {
    for (const uint64_t offset : {uint64_t{0}, file.bytes / 2, file.bytes - 1}) {
      flip(path_ / file.name, offset);
      EXPECT_THAT(refusal(path_), HasSubstr(file.name + ": its bytes")) << offset;
      flip(path_ / file.name, offset);
    }
  }
  const uint64_t length = manifest.text().size();
  for (uint64_t offset = 0; offset < length; ++offset) {
    flip(path_ / names::kManifest, offset);
    EXPECT_NE(refusal(path_), "opened") << offset;
    flip(path_ / names::kManifest, offset);
  }
  EXPECT_EQ(refusal(path_), "opened");
}

TEST_F(CheckpointTest, AllThatIsWrongIsNamed) {
  const std::string part = names::optimizer_part(1, 2);
  files_.remove(path_ / part);
  std::filesystem::resize_file(path_ / names::kModel, 10);
  flip(path_ / names::kState, 3);
  std::filesystem::rename(path_ / names::kModelCard, path("elsewhere"));
  files_.create_link(path_ / names::kModelCard, path("elsewhere").string());
  const std::string text = refusal(path_);
  EXPECT_THAT(text, HasSubstr(part + ": it is missing"));
  EXPECT_THAT(text, HasSubstr("model.safetensors: it has 10 bytes"));
  EXPECT_THAT(text, HasSubstr("state.json: its bytes"));
  EXPECT_THAT(text, HasSubstr("model.json: it is a link"));
  EXPECT_THAT(text, HasSubstr(path_.string()));
}

TEST_F(CheckpointTest, DocumentsAloneLeavesTheModelsDigestToItsReader) {
  flip(path_ / names::kModel, 200);
  EXPECT_EQ(refusal(path_, Verify::kDocuments), "opened");
  EXPECT_NE(digest_of_file(files_, path_ / names::kModel),
            open_checkpoint(files_, path_, Verify::kDocuments).manifest.find(names::kModel)->digest);
  flip(path_ / names::kLineage, 3);
  EXPECT_THAT(refusal(path_, Verify::kDocuments), HasSubstr("lineage.json"));
  flip(path_ / names::kLineage, 3);
  std::filesystem::resize_file(path_ / names::kModel, 10);
  EXPECT_THAT(refusal(path_, Verify::kDocuments), HasSubstr("10 bytes"));
}

TEST_F(CheckpointTest, AManifestMustListWhatACheckpointNeeds) {
  for (const char* needed : {names::kModel, names::kState, names::kLineage, names::kModelCard}) {
    std::vector<FileRecord> files = open_checkpoint(files_, path_).manifest.files();
    std::erase_if(files, [&](const FileRecord& file) { return file.name == needed; });
    const std::string text = read_text(files_, path_ / names::kManifest);
    write_synced(files_, path_ / names::kManifest, Manifest(files).text());
    EXPECT_THAT(refusal(path_), HasSubstr(std::string(needed) + ": the manifest does not list it"));
    write_synced(files_, path_ / names::kManifest, text);
  }
}

TEST_F(CheckpointTest, WhatIsNoneIsRefusedClearly) {
  EXPECT_THAT(refusal(path("none")), HasSubstr("there is no checkpoint"));
  files_.create_link(path("dangling"), "gone");
  EXPECT_THAT(refusal(path("dangling")), HasSubstr("there is no checkpoint"));
  EXPECT_THAT(refusal(directory_.path()), HasSubstr("no manifest.json"));
  EXPECT_THAT(refusal(path("run")),
              HasSubstr("its newest checkpoint is " + (path("run") / "checkpoints/latest").string()));
  EXPECT_THAT(refusal(path_ / names::kModel), HasSubstr("a file, and not a checkpoint"));
}

TEST_F(CheckpointTest, APickleIsRefusedWithThePythonThatConvertsIt) {
  for (const char* name : {"model.pt", "model.pth", "pytorch_model.bin", "model.ckpt"}) {
    write_synced(files_, path(name), "anything");
    EXPECT_THAT(refusal(path(name)), HasSubstr("torch.load(\"" + std::string(name) + "\"")) << name;
  }
  write_synced(files_, path("zipped"), "PK\x03\x04...");
  EXPECT_THAT(refusal(path("zipped")), HasSubstr("weights_only=True"));
  write_synced(files_, path("raw"), "\x80\x02}q");
  EXPECT_THAT(refusal(path("raw")), HasSubstr("safetensors.torch.save_file"));
  // A header of 640 bytes, which is 0x280: its length begins as a pickle of protocol 2 does.
  std::string header = R"({"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}})";
  header.resize(640, ' ');
  write_synced(files_, path("640"), std::string("\x80\x02\0\0\0\0\0\0", 8) + header + "x");
  EXPECT_NO_THROW(refuse_pickle(files_, path("640")));
  write_synced(files_, path("empty"), "");
  EXPECT_THAT(refusal(path("empty")), Not(HasSubstr("pickle")));
}

// The three lines do what they say.
TEST_F(CheckpointTest, ThePythonOfTheRefusalRuns) {
  const char* python = std::getenv("REKINDLE_PYTHON");
  if (!python) GTEST_SKIP() << "REKINDLE_PYTHON names no Python with torch and safetensors";
  const auto run = [&](const std::string& script) {
    write_synced(files_, path("script.py"), script);
    return std::system(("cd '" + directory_.path().string() + "' && '" + python + "' script.py").c_str());
  };
  const auto run_hint = [&](const char* name) {
    std::string script = refusal(path(name));
    script = script.substr(script.find("    import "));
    std::string lines;
    for (size_t at = 0; at < script.size();) {
      const size_t end = std::min(script.find('\n', at), script.size());
      lines += script.substr(at + 4, end - at - 4) + "\n";
      at = end + 1;
    }
    ASSERT_EQ(run(lines), 0) << lines;
    const safetensors::Reader reader(files_, path("model.safetensors"));
    EXPECT_EQ(reader.tensors().size(), 2u);
  };
  ASSERT_EQ(run("import torch\nw = torch.arange(4.)\ntorch.save({'w': w, 'tied': w}, 'model.pt')\n"), 0);
  run_hint("model.pt");
  std::filesystem::remove(path("model.safetensors"));
  ASSERT_EQ(run("import torch\nfor i in (1, 2):\n"
                "    torch.save({f'w{i}': torch.ones(i)}, f'pytorch_model-0000{i}-of-00002.bin')\n"
                "open('pytorch_model.bin.index.json', 'w').write('{}')\n"),
            0);
  run_hint("pytorch_model.bin.index.json");
}

}  // namespace
}  // namespace rekindle
