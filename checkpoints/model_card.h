// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <nlohmann/json.hpp>

#include <cstdint>
#include <string>
#include <vector>

namespace rekindle {

// model.json: what is needed to build the model again and to feed it.
struct ModelCard {
  std::string model;                                  // name in the registry
  nlohmann::json options = nlohmann::json::object();  // the keys of `[model]` that it was built with
  std::vector<std::string> classes;                   // in the order of the head's rows
  std::vector<int64_t> sample_shape;                  // of one sample
  std::string data_kind;                              // "idx", "safetensors"
  double mean = 0, std = 1;                           // of `normalize`

  bool operator==(const ModelCard&) const = default;
};

nlohmann::json to_json(const ModelCard& card);

// Throws bad_input that names `where` and the key.
ModelCard model_card_from_json(const nlohmann::json& json, const std::string& where);

}  // namespace rekindle
