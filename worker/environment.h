// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <nlohmann/json_fwd.hpp>

#include <string>

#include "comm/communicator.h"

namespace rekindle {

// environment.json: what a result may depend on besides job and data. Versions, processor, GPU, host, world.
nlohmann::ordered_json describe_environment(const Communicator& communicator);

// What the bits of a result hang on besides: the processor's model, its instructions and the libraries that
// use them; where there are GPUs, their model and cuDNN too.
std::string arithmetic_name(const Communicator& communicator);

std::string build_name();  // "rekindle 0.1.0, LibTorch 2.11.0, g++ 12.2"; the same on all ranks of a run

}  // namespace rekindle
