// SPDX-License-Identifier: Apache-2.0
// Takes the place of nccl_library.cpp where LibTorch has no CUDA.
#include "comm/nccl_library.h"
#include "core/error.h"

namespace rekindle {

int count_gpus() {
  return 0;
}

NcclFunctions load_nccl(int) {
  throw Error("this LibTorch has no CUDA", {"", "build with the LibTorch of PyTorch's CUDA wheel"});
}

}  // namespace rekindle
