// SPDX-License-Identifier: Apache-2.0
#include <map>

#include "core/error.h"
#include "core/text.h"
#include "models/built_in.h"
#include "models/model.h"

namespace rekindle {
namespace {

// A function's static, so that it is there when the first REKINDLE_MODEL of another file runs.
std::map<std::string, ModelFactory>& registry() {
  static std::map<std::string, ModelFactory> models{
      {"mlp", make_mlp}, {"logistic", make_logistic}, {"resnet18", make_resnet18}};
  return models;
}

}  // namespace

bool register_model(const std::string& name, ModelFactory factory) {
  if (!registry().emplace(name, std::move(factory)).second)
    throw Error("two models are named '" + name + "'");
  return true;
}

std::shared_ptr<Model> make_model(const ModelOptions& options, const DataShape& shape) {
  const auto found = registry().find(options.name());
  if (found == registry().end()) {
    std::vector<std::string> names;
    for (const auto& [name, factory] : registry()) names.push_back(name);
    const std::string near = nearest(options.name(), names);
    throw bad_input("there is no model '" + options.name() + "' in this worker", "model.name",
                    near.empty() ? "it knows " + enumerate(names) + "; your own need --worker"
                                 : "did you mean '" + near + "'?");
  }
  std::shared_ptr<Model> model = found->second(options, shape);
  if (const auto unread = options.unread(); !unread.empty()) {
    throw bad_input("model '" + options.name() + "' has no key " + enumerate(unread), "[model]");
  }
  return model;
}

}  // namespace rekindle
