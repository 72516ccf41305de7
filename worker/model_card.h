// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "checkpoints/model_card.h"
#include "job/job.h"
#include "models/model.h"
#include "warmstart/named_state.h"

namespace rekindle {

// Between the models, which know no checkpoints, and the checkpoints, which know no models.
ModelCard card_of(const Job& job, const DataShape& shape, const std::vector<std::string>& classes);
ModelOptions options_from(const ModelCard& card);
NamedState state_of(const Model& model);

// Throws bad_input that says what differs where a child would read its data otherwise than its parent did.
void check_preprocessing(const ModelCard& parent, const ModelCard& child);

}  // namespace rekindle
