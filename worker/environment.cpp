// SPDX-License-Identifier: Apache-2.0
#include "worker/environment.h"

#include <ATen/Version.h>
#include <torch/version.h>
#include <unistd.h>

#include <fstream>
#include <nlohmann/json.hpp>
#include <thread>

namespace rekindle {
namespace {

std::string processor() {
  std::ifstream info("/proc/cpuinfo");
  for (std::string line; std::getline(info, line);) {
    if (line.starts_with("model name")) return line.substr(line.find(':') + 2);
  }
  return "unknown";
}

}  // namespace

std::string build_name() {
  return "rekindle " REKINDLE_VERSION ", LibTorch " TORCH_VERSION ", compiler " __VERSION__;
}

std::string arithmetic_name() {
  return at::get_cpu_capability() + ", " + at::get_mkl_version() + ", " + at::get_mkldnn_version();
}

nlohmann::ordered_json describe_environment(int world) {
  char host[256] = {};
  gethostname(host, sizeof host - 1);
  return {{"build", build_name()},
          {"host", host},
          {"processor", processor()},
          {"cores", std::thread::hardware_concurrency()},
          {"cpu_capability", at::get_cpu_capability()},
          {"mkl", at::get_mkl_version()},
          {"onednn", at::get_mkldnn_version()},
          {"workers", world}};
}

}  // namespace rekindle
