// SPDX-License-Identifier: Apache-2.0
#include "checkpoints/model_card.h"

#include "checkpoints/fields.h"

namespace rekindle {

nlohmann::json to_json(const ModelCard& card) {
  return {{"model", card.model},
          {"options", card.options},
          {"classes", card.classes},
          {"sample_shape", card.sample_shape},
          {"data_kind", card.data_kind},
          {"mean", card.mean},
          {"std", card.std}};
}

ModelCard model_card_from_json(const nlohmann::json& json, const std::string& where) {
  const Fields fields(json, where);
  ModelCard card;
  card.model = fields.text("model");
  card.options = fields.object("options");
  card.classes = fields.texts("classes");
  card.sample_shape = fields.counts("sample_shape");
  card.data_kind = fields.text("data_kind");
  card.mean = fields.number("mean");
  card.std = fields.number("std");
  return card;
}

}  // namespace rekindle
