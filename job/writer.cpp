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

}  // namespace rekindle
