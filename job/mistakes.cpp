// SPDX-License-Identifier: Apache-2.0
#include "job/mistakes.h"

#include <algorithm>

#include "core/text.h"
#include "job/kinds.h"

namespace rekindle {
namespace {

constexpr size_t kMostListed = 50;
constexpr size_t kMostLetters = 60;  // of a value in a message, and of a key that a slip is looked for in

std::string describe(const toml::node& node) {
  if (const auto* text = node.as_string()) return quote(shown(text->get()));
  if (const auto* number = node.as_integer()) return std::to_string(number->get());
  if (const auto* number = node.as_floating_point()) return to_toml_number(number->get());
  if (const auto* flag = node.as_boolean()) return flag->get() ? "true" : "false";
  if (node.is_array()) return "a list";
  if (node.is_table()) return "a table";
  return "a date or a time";
}

}  // namespace

void Mistakes::add(const toml::source_region& where, std::string what) {
  const bool in_file = !where.path || *where.path == file_;
  std::string place = in_file ? file_ : *where.path;
  if (in_file && where.begin) {
    place += ":" + std::to_string(where.begin.line) + ":" + std::to_string(where.begin.column);
  }
  list_.push_back({in_file, where.begin, place + ": " + what});
}

Error Mistakes::error() const {
  std::vector<Mistake> sorted = list_;
  std::stable_sort(sorted.begin(), sorted.end(), [](const Mistake& a, const Mistake& b) {
    return a.in_file != b.in_file ? a.in_file : a.in_file && a.at < b.at;
  });
  std::string text =
      std::to_string(sorted.size()) + (sorted.size() == 1 ? " mistake" : " mistakes") + " in the job";
  for (size_t i = 0; i < std::min(sorted.size(), kMostListed); ++i) text += "\n  " + sorted[i].text;
  if (sorted.size() > kMostListed) text += "\n  and " + std::to_string(sorted.size() - kMostListed) + " more";
  return bad_input(text, "", "docs/job-file.md lists every key");
}

std::nullopt_t Item::wrong(const std::string& expected, const std::string& suggestion) const {
  return refuse("is " + describe(node) + ", expected " + expected +
                (suggestion.empty() ? "" : ", " + suggestion));
}

std::nullopt_t Item::not_built(const std::string& expected) const {
  return refuse("= " + describe(node) + " is not in this version" +
                (expected.empty() ? "" : ", expected " + expected));
}

std::nullopt_t Item::refuse(const std::string& reason) const {
  mistakes.add(node.source(), name + " " + reason);
  return std::nullopt;
}

std::string shown(std::string_view text) {
  std::string out;
  for (const char c : text.substr(0, kMostLetters)) {
    out += static_cast<unsigned char>(c) < 0x20 || c == 0x7f ? '?' : c;
  }
  if (text.size() <= kMostLetters) return out;
  while (!out.empty() && (static_cast<unsigned char>(text[out.size()]) & 0xC0) == 0x80)
    out.pop_back();  // whole UTF-8
  return out + "...";
}

std::string did_you_mean(std::string_view word, const std::vector<std::string>& candidates,
                         std::string* suggestion) {
  // A slip is short; a long word would only cost time.
  const std::string best = word.size() > kMostLetters ? "" : nearest(word, candidates);
  if (suggestion != nullptr) *suggestion = best;
  return best.empty() ? "" : "did you mean '" + best + "'?";
}

}  // namespace rekindle
