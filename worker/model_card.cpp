// SPDX-License-Identifier: Apache-2.0
#include "worker/model_card.h"

#include "core/error.h"
#include "core/text.h"

namespace rekindle {
namespace {

using nlohmann::json;

ModelOptions::Value value_of(const std::string& key, const json& value) {
  if (value.is_boolean()) return value.get<bool>();
  if (value.is_number_integer()) return value.get<int64_t>();
  if (value.is_number_float()) return value.get<double>();
  if (value.is_string()) return value.get<std::string>();
  if (value.is_array() && (value.empty() || value[0].is_number_integer()))
    return value.get<std::vector<int64_t>>();
  if (value.is_array() && value[0].is_string()) return value.get<std::vector<std::string>>();
  throw bad_input("key '" + key + "' of the parent's model has a value that no model reads", "model.json");
}

}  // namespace

ModelCard card_of(const Job& job, const DataShape& shape, const std::vector<std::string>& classes) {
  ModelCard card;
  card.model = job.model.name();
  for (const auto& [key, value] : job.model.values()) {
    std::visit([&, &name = key](const auto& v) { card.options[name] = v; }, value);
  }
  card.classes = classes;
  card.sample_shape = shape.sample();
  card.data_kind = job.data.kind;
  card.mean = job.data.mean;
  card.std = job.data.std;
  return card;
}

ModelOptions options_from(const ModelCard& card) {
  std::map<std::string, ModelOptions::Value> values;
  for (const auto& [key, value] : card.options.items()) values.emplace(key, value_of(key, value));
  return {card.model, std::move(values)};
}

NamedState state_of(const Model& model) {
  NamedState state;
  for (const auto& item : model.named_parameters()) {
    (item.value().requires_grad() ? state.parameters : state.frozen).emplace_back(item.key(), item.value());
  }
  for (const auto& item : model.named_buffers()) state.buffers.emplace_back(item.key(), item.value());
  return state;
}

void check_preprocessing(const ModelCard& parent, const ModelCard& child) {
  std::vector<std::string> differs;
  if (parent.mean != child.mean || parent.std != child.std) {
    differs.push_back("data.normalize (the parent's: mean " + json(parent.mean).dump() + ", std " +
                      json(parent.std).dump() + ")");
  }
  if (parent.data_kind != child.data_kind)
    differs.push_back("data.kind (the parent's: " + parent.data_kind + ")");
  if (parent.sample_shape != child.sample_shape) {
    differs.push_back("the shape of a sample (the parent's: " + json(parent.sample_shape).dump() + ", now " +
                      json(child.sample_shape).dump() + ")");
  }
  if (differs.empty()) return;
  throw bad_input("the data are not read as the parent read them: " + enumerate(differs) + " differ",
                  "[data]",
                  "preprocessing belongs to the checkpoint; use the parent's, or start cold from no parent");
}

}  // namespace rekindle
