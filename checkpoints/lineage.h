// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <nlohmann/json_fwd.hpp>

#include <cstdint>
#include <map>
#include <string>
#include <vector>

namespace rekindle {

// One arrival of data that a checkpoint was made from.
struct IncrementRecord {
  std::string digest;
  int64_t samples = 0;  // that it holds
  int64_t seen = 0;     // that were trained on, repeats included

  bool operator==(const IncrementRecord&) const = default;
};

// Weights that nobody here trained: what is known of them.
struct Origin {
  std::string base_model;                    // as the model card says (Hugging Face); empty where it does not
  std::map<std::string, std::string> files;  // digests by name

  bool operator==(const Origin&) const = default;
};

// lineage.json: where a checkpoint comes from. It names parents, data and job by digest, never by path or
// time.
struct Lineage {
  std::string parent;                       // digest of the checkpoint it started from; empty: from nothing
  Origin origin;                            // of the line's first ancestor, where that came from elsewhere
  std::string job;                          // job digest
  std::vector<IncrementRecord> increments;  // in order of arrival

  // How its own run held samples out.
  double validation = 0, test = 0;  // shares
  std::string split_by = "key";
  // The smallest test share of its own run and of all its ancestors. A sample whose key falls under it was
  // never trained on by anyone in the line, so that parent and child can be compared on it.
  double held_out_test = 0;

  std::string build;  // version and compiler of the program that wrote it

  bool operator==(const Lineage&) const = default;
};

nlohmann::json to_json(const Lineage& lineage);

// Throws bad_input that names `where` and the key.
Lineage lineage_from_json(const nlohmann::json& json, const std::string& where);

}  // namespace rekindle
