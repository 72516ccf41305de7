// SPDX-License-Identifier: Apache-2.0
#pragma once

namespace rekindle {

// From now on, backward of linear layers and embeddings, at:: and torch::nn alike, writes the weight's
// gradient into memory that a GradientReducer lends, where the weight has one: no copy of it is made. (As
// Megatron-LM's fusion of gradient accumulation, here without a kernel of its own.)
void lend_to_layers();

}  // namespace rekindle
