// SPDX-License-Identifier: Apache-2.0
#include "checkpoints/lineage.h"

#include <nlohmann/json.hpp>

#include "checkpoints/fields.h"

namespace rekindle {
namespace {

Origin origin_from(const nlohmann::json& json, const std::string& where) {
  const Fields fields(json, where);
  Origin origin;
  origin.base_model = fields.text("base_model");
  const nlohmann::json& files = fields.object("files");
  for (const auto& [name, digest] : files.items())
    origin.files[name] = Fields(files, where).digest(name.c_str());
  return origin;
}

}  // namespace

nlohmann::json to_json(const Lineage& lineage) {
  nlohmann::json increments = nlohmann::json::array();
  for (const IncrementRecord& increment : lineage.increments) {
    increments.push_back(
        {{"digest", increment.digest}, {"samples", increment.samples}, {"seen", increment.seen}});
  }
  return {{"parent", lineage.parent},
          {"origin", {{"base_model", lineage.origin.base_model}, {"files", lineage.origin.files}}},
          {"job", lineage.job},
          {"increments", increments},
          {"validation", lineage.validation},
          {"test", lineage.test},
          {"split_by", lineage.split_by},
          {"held_out_test", lineage.held_out_test},
          {"build", lineage.build}};
}

Lineage lineage_from_json(const nlohmann::json& json, const std::string& where) {
  const Fields fields(json, where);
  Lineage lineage;
  lineage.parent = fields.digest_or_empty("parent");
  if (json.contains("origin")) lineage.origin = origin_from(fields.object("origin"), where);
  lineage.job = fields.digest("job");
  for (const Fields& increment : fields.objects("increments")) {
    lineage.increments.push_back(
        {increment.digest("digest"), increment.count("samples"), increment.count("seen")});
  }
  lineage.validation = fields.share("validation");
  lineage.test = fields.share("test");
  lineage.split_by = fields.text("split_by");
  lineage.held_out_test = fields.share("held_out_test");
  lineage.build = fields.text("build");
  return lineage;
}

}  // namespace rekindle
