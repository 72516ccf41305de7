// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <gtest/gtest.h>

#include <fstream>
#include <string>
#include <vector>

#include "core/error.h"
#include "job/job.h"
#include "tests/support/temp_directory.h"

namespace rekindle {

// The shortest valid job.
inline constexpr char kSmallJob[] = R"([data]
path = "data.safetensors"
[batch]
global = 64
[schedule]
base_lr = 0.1
[run]
directory = "out"
duration = "2ep"
)";

// Every key that is built, with SGD; none of them as its default has it.
inline constexpr char kFullJob[] = R"([model]
name = "mlp"
hidden = [32, 16]
dropout = 0.25
batch_norm = true
[data]
kind = "idx"
increments = [
  { images = "a.gz", labels = "/abs/b.gz", range = [0, 30000] },
  { images = "c.gz", labels = "d.gz" },
]
normalize = { mean = [0.286], std = [0.353] }
shuffle = false
augment = ["crop", "flip"]
[batch]
global = 1024
microbatch = 128
[optimizer]
name = "sgd"
momentum = 0.9
nesterov = true
weight_decay = 5e-4
no_decay = ["*.bias", "norm\"*"]
max_grad_norm = 1.0
[schedule]
base_lr = 0.1
base_batch = 256
lr_scaling = "linear"
warmup = "0.06dur"
warmup_shape = "linear"
warmup_start_factor = 0.1
decay = "cosine"
min_lr_factor = 0.01
[warm_start]
from = "promoted"
strategy = "cold"
min_loaded = 0.5
[evaluation]
every = "200ba"
batch = 100
validation = 0.05
test = 0.1
split_by = "key"
[checkpoint]
every = "30min"
keep = 5
verify = false
[verdict]
metric = "loss"
min_gain = -0.001
max_forgetting = 0.02
if_inconclusive = "promote"
[run]
line = "runs/fashion/"
duration = "10ep"
seed = 7
reproducible = "same-world"
threads = 2
workers = 4
deadline = "90sec"
on_nan = "skip"
log_every = "1ba"
check_every = "50ba"
)";

class JobTest : public ::testing::Test {
 protected:
  std::filesystem::path write(const std::string& text, const std::string& name = "job.toml") const {
    const std::filesystem::path file = directory_.path() / name;
    std::ofstream(file, std::ios::binary) << text;
    return file;
  }

  Job read(const std::string& text, std::vector<std::string> overrides = {}) const {
    return read_job(write(text), overrides);
  }

  // The lines of the Error that reading must throw, the folder taken out: "job.toml:3:1: ...". The first line
  // says how many there are.
  std::vector<std::string> mistakes(const std::string& text, std::vector<std::string> overrides = {}) const {
    try {
      read(text, std::move(overrides));
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ExitCode::kBadInput);
      return lines(error.summary());
    }
    ADD_FAILURE() << "the job was taken";
    return {"", ""};
  }

  std::vector<std::string> lines(std::string text) const {
    const std::string folder = directory_.path().string() + "/";
    for (size_t at; (at = text.find(folder)) != std::string::npos;) text.erase(at, folder.size());
    std::vector<std::string> out;
    std::istringstream stream(text);
    for (std::string line; std::getline(stream, line);)
      out.push_back(line.substr(line.find_first_not_of(' ')));
    return out;
  }

  TempDirectory directory_;
};

}  // namespace rekindle
