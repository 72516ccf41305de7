// SPDX-License-Identifier: Apache-2.0
#pragma once

namespace rekindle {

// From now on, in the whole process and for good, backward of linear layers (at:: and torch::nn alike) and,
// on the CPU, of embeddings without padding writes the weight's gradient into memory that a GradientReducer
// lends, where the weight has one: no copy of it is made. (As Megatron-LM's fusion of gradient accumulation,
// here without a kernel of its own.) Large products of float32 on the CPU go to oneDNN, without gradients
// too.
void lend_to_layers();

}  // namespace rekindle
