// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <cctype>

#include "core/digest.h"
#include "job/job.h"
#include "job/keys.h"
#include "job/kinds.h"

namespace rekindle {
namespace {

std::string bare_or_quoted(const std::string& key) {
  const bool bare = !key.empty() && std::ranges::all_of(key, [](unsigned char c) {
    return std::isalnum(c) || c == '_' || c == '-';
  });
  return bare ? key : quote(key);
}

// The line of `key`; empty where there is nothing to say.
std::string line_of(const Job& job, const Key<Job>& key) {
  if (key.section == "verdict" && !job.verdict) return "";
  if (!has_meaning(key, job)) return "";
  const std::string value = key.print(job);
  return value.empty() ? "" : key.name + " = " + value + "\n";
}

std::string model_lines(const ModelOptions& model) {
  std::string text;
  for (const auto& [key, value] : model.values())
    text += bare_or_quoted(key) + " = " + print_model_value(value) + "\n";
  return text;
}

template <typename Wanted>
std::string write(const Job& job, Wanted wanted) {
  std::string text, section;
  for (const Key<Job>& key : job_keys()) {
    const std::string line = wanted(key) ? line_of(job, key) : "";
    if (line.empty()) continue;
    if (key.section != section) text += (text.empty() ? "[" : "\n[") + key.section + "]\n";
    section = key.section;
    text += line;
    if (key.full_name() == "model.name") text += model_lines(job.model);
  }
  return text;
}

}  // namespace

std::string to_toml(const Job& job) {
  return write(job, [](const Key<Job>&) { return true; });
}

std::string job_digest(const Job& job) {
  return digest_of(write(job, [](const Key<Job>& key) { return !key.resumable; }));
}

std::string difference_text(const Job& job, const Job& other) {
  constexpr size_t kShown = 3;
  const auto value_of = [](const Job& of, const Key<Job>& key) {
    const std::string value = line_of(of, key).empty() ? "" : key.print(of);
    return value.empty() ? "nothing" : value;
  };
  std::vector<std::string> differences;
  for (const Key<Job>& key : job_keys()) {
    if (key.resumable) continue;
    const std::string mine = value_of(job, key), theirs = value_of(other, key);
    if (mine != theirs) differences.push_back(key.full_name() + " = " + mine + " instead of " + theirs);
  }
  if (job.model.name() == other.model.name() && model_lines(job.model) != model_lines(other.model))
    differences.push_back("other keys of the model");
  std::string text;
  for (size_t i = 0; i < std::min(differences.size(), kShown); ++i)
    text += (text.empty() ? "" : ", ") + differences[i];
  if (differences.size() > kShown) text += " and " + std::to_string(differences.size() - kShown) + " more";
  return text;
}

}  // namespace rekindle
