// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "comm/nccl_functions.h"

namespace rekindle {

// GPUs that this process sees. None where LibTorch has no CUDA (nccl_absent.cpp).
int count_gpus();

// The calls of NCCL and CUDA for that GPU. Loads LibTorch's CUDA half, which takes 0.2 s and 350 MB and so is
// left alone until there is a GPU; ATen must not have been asked about CUDA before. Throws Error where
// a library is missing.
NcclFunctions load_nccl(int gpu);

}  // namespace rekindle
