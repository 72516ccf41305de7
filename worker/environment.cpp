// SPDX-License-Identifier: Apache-2.0
#include "worker/environment.h"

#include <ATen/Version.h>
#include <ATen/detail/CUDAHooksInterface.h>
#include <torch/version.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <fstream>
#include <nlohmann/json.hpp>
#include <thread>

namespace rekindle {
namespace {

// What /proc/cpuinfo says about the first processor; empty where it does not say it.
std::string processor(const std::string& key) {
  std::ifstream info("/proc/cpuinfo");
  for (std::string line; std::getline(info, line) && !line.empty();) {
    const size_t colon = line.find(':');
    if (colon != std::string::npos && line.starts_with(key))
      return line.substr(std::min(colon + 2, line.size()));
  }
  return {};
}

// MKL and oneDNN choose their kernels by the model, and by what the environment tells them.
std::string processor_model() {
  std::string model;
  for (const char* key : {"vendor_id", "cpu family", "model\t", "CPU implementer", "CPU part"}) {
    if (const std::string value = processor(key); !value.empty()) model += (model.empty() ? "" : "/") + value;
  }
  for (const char* name : {"ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA", "MKL_ENABLE_INSTRUCTIONS", "MKL_CBWR"}) {
    if (const char* value = std::getenv(name)) model += std::string(", ") + name + "=" + value;
  }
  return model;
}

std::string cudnn_version() {
  const at::CUDAHooksInterface& cuda = at::detail::getCUDAHooks();
  return cuda.hasCuDNN() ? "cuDNN " + std::to_string(cuda.versionCuDNN()) : "no cuDNN";
}

}  // namespace

std::string build_name() {
  return "rekindle " REKINDLE_VERSION ", LibTorch " TORCH_VERSION ", compiler " __VERSION__;
}

std::string arithmetic_name(const Communicator& communicator) {
  std::string name = processor_model() + ", " + at::get_cpu_capability() + ", " + at::get_mkl_version() +
                     ", " + at::get_mkldnn_version();
  if (!communicator.device_name().empty()) name += ", " + communicator.device_name() + ", " + cudnn_version();
  return name;
}

nlohmann::ordered_json describe_environment(const Communicator& communicator) {
  char host[256] = {};
  gethostname(host, sizeof host - 1);
  return {{"build", build_name()},
          {"host", host},
          {"processor", processor("model name")},
          {"processor_model", processor_model()},
          {"cores", std::thread::hardware_concurrency()},
          {"cpu_capability", at::get_cpu_capability()},
          {"mkl", at::get_mkl_version()},
          {"onednn", at::get_mkldnn_version()},
          {"gpu", communicator.device_name()},
          {"cudnn", communicator.device_name().empty() ? "" : cudnn_version()},
          {"arithmetic", arithmetic_name(communicator)},
          {"workers", communicator.world()}};
}

}  // namespace rekindle
