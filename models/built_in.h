// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>

#include "models/model.h"

namespace rekindle {

// Fully connected layers with ReLU between them: [model] hidden, dropout, batch_norm. Parameters
// layers.N.weight|bias, and norms.N.* with batch_norm.
std::shared_ptr<Model> make_mlp(const ModelOptions& options, const DataShape& shape);

// One linear layer: linear.weight|bias.
std::shared_ptr<Model> make_logistic(const ModelOptions& options, const DataShape& shape);

// ResNet-18 (He et al. 2016) with the stem for small images (3x3, no pooling), named as torchvision's.
// Images of any number of channels.
std::shared_ptr<Model> make_resnet18(const ModelOptions& options, const DataShape& shape);

}  // namespace rekindle
