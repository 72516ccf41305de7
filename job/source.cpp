// SPDX-License-Identifier: Apache-2.0
#include "job/source.h"

#include <cerrno>
#include <cstring>
#include <fstream>

#include "job/kinds.h"

namespace rekindle {
namespace {

constexpr size_t kMostBytes = 1 << 20;
constexpr int kMostNested = 32;  // brackets within brackets, and dots in one key

// Walks over TOML as its parser would, knowing only strings, comments, brackets and dots. A tree that is deep
// in either way would overflow the stack of the parser or of its tree's destructor.
class DepthCheck {
 public:
  explicit DepthCheck(std::string_view text) : text_(text) {}

  std::optional<toml::source_position> find() {
    while (at_ < text_.size()) {
      const char c = text_[at_];
      if (c == '#') {
        skip_to_line_end();
      } else if (c == '"' || c == '\'') {
        skip_string(c);
      } else {
        count(c);
        if (depth_ > kMostNested || dots_ > kMostNested) return position();
        ++at_;
      }
    }
    return std::nullopt;
  }

 private:
  void count(char c) {
    if (c == '[' || c == '{') ++depth_;
    if ((c == ']' || c == '}') && depth_ > 0) --depth_;
    if (c == '.') ++dots_;
    if (std::string_view("[]{},=\n").find(c) != std::string_view::npos) dots_ = 0;  // a key ends here
  }

  void skip_to_line_end() { at_ = std::min(text_.find('\n', at_), text_.size()); }

  void skip_string(char mark) {
    const bool long_one = marks(mark) >= 3;
    at_ += long_one ? 3 : 1;
    while (at_ < text_.size()) {
      if (text_[at_] == '\\' && mark == '"') {
        at_ += 2;
      } else if (text_[at_] == '\n' && !long_one) {
        return;  // an error, which the parser tells better
      } else if (text_[at_] != mark) {
        ++at_;
      } else if (!long_one) {
        ++at_;
        return;
      } else if (const size_t run = marks(mark); run >= 3) {
        at_ += std::min<size_t>(run, 5);  // two of them may belong to the text
        return;
      } else {
        at_ += run;
      }
    }
  }

  size_t marks(char mark) const { return std::min(text_.find_first_not_of(mark, at_), text_.size()) - at_; }

  toml::source_position position() const {
    toml::source_position place{1, 1};
    for (const char c : text_.substr(0, at_)) {
      if (c == '\n') {
        place = {place.line + 1, 1};
      } else if ((static_cast<unsigned char>(c) & 0xC0) != 0x80) {  // characters, not bytes
        ++place.column;
      }
    }
    return place;
  }

  std::string_view text_;
  size_t at_ = 0;
  int depth_ = 0, dots_ = 0;
};

Error unreadable(const std::string& name, const std::string& why, const std::string& hint = "") {
  return bad_input("cannot read the job file: " + why, name, hint);
}

std::string read_bytes(const std::filesystem::path& file, const std::string& name) {
  std::error_code error;
  const auto status = std::filesystem::status(file, error);
  if (status.type() == std::filesystem::file_type::not_found) {
    throw unreadable(name, "there is no such file", "examples/ has job files to start from");
  }
  if (std::filesystem::is_directory(status))
    throw unreadable(name, "it is a directory", "give the job file in it");

  std::ifstream stream(file, std::ios::binary);
  if (!stream) throw unreadable(name, std::strerror(errno));
  std::string text(kMostBytes + 1, '\0');
  stream.read(text.data(), static_cast<std::streamsize>(text.size()));
  if (stream.bad()) throw unreadable(name, std::strerror(errno));
  text.resize(static_cast<size_t>(stream.gcount()));
  if (text.size() > kMostBytes) throw unreadable(name, "it has more than 1 MiB", "is this a job file?");
  return text;
}

// The one key that the tree sets, with the tables on the way to it; none where it sets more or none.
std::optional<std::string> only_key(const toml::table& tree) {
  if (tree.size() != 1) return std::nullopt;
  const auto only = tree.begin();
  std::string name(only->first.str());
  const toml::table* inner = only->second.as_table();
  if (inner == nullptr || inner->is_inline()) return name;
  const std::optional<std::string> rest = only_key(*inner);
  return rest ? std::optional(name + "." + *rest) : std::nullopt;
}

const toml::node& value_of(const toml::table& tree) {
  const toml::node& node = tree.begin()->second;
  return node.is_table() && !node.as_table()->is_inline() ? value_of(*node.as_table()) : node;
}

// No key takes a date, so that "runs/2026" and "2026-11-20" are both paths.
bool is_time(const toml::node& node) {
  return node.is_date() || node.is_time() || node.is_date_time();
}

std::string trimmed(const std::string& text) {
  const size_t begin = text.find_first_not_of(" \t");
  return begin == std::string::npos ? "" : text.substr(begin, text.find_last_not_of(" \t") - begin + 1);
}

}  // namespace

toml::table parse_job_file(const std::filesystem::path& file, const std::string& name) {
  const std::string text = read_bytes(file, name);
  Mistakes mistakes(name);
  toml::source_region where{{1, 1}, {1, 1}, std::make_shared<const std::string>(name)};
  DepthCheck check(text);
  if (const auto place = check.find()) {
    where.begin = *place;
    mistakes.add(where, "nested too deeply, expected at most " + std::to_string(kMostNested) + " levels");
    throw mistakes.error();
  }
  try {
    return toml::parse(text, name);
  } catch (const toml::parse_error& error) {
    where.begin = error.source().begin;
    mistakes.add(where, "no TOML: " + std::string(error.description()) +
                            ", expected key = value, with texts and lengths in quotes, such as \"5ep\"");
  }
  throw mistakes.error();
}

std::optional<toml::table> parse_override(const std::string& text, Mistakes& mistakes) {
  const std::string label = "override '" + shown(text) + "'";
  const toml::source_region where{{}, {}, std::make_shared<const std::string>(label)};
  const size_t equals = text.find('=');
  DepthCheck check(text);
  if (text.size() > kMostBytes || check.find()) {
    mistakes.add(where, "too long or nested too deeply");
    return std::nullopt;
  }
  if (equals != std::string::npos) {
    for (const std::string& candidate :
         {text, text.substr(0, equals) + "=" + quote(trimmed(text.substr(equals + 1)))}) {
      try {
        toml::table tree = toml::parse(candidate, label);
        if (only_key(tree) && !is_time(value_of(tree))) return tree;
      } catch (const toml::parse_error&) {
        // Not TOML as it stands: taken as a string, then refused.
      }
    }
  }
  mistakes.add(where, "expected section.key=value");
  return std::nullopt;
}

std::string name_of_override(const toml::table& tree) {
  return only_key(tree).value_or("");
}

void lay_over(toml::table& into, toml::table&& from) {
  const auto only = from.begin();
  const toml::key& key = only->first;
  toml::table* inner = only->second.as_table();
  toml::table* there = into.get_as<toml::table>(key.str());
  if (inner != nullptr && !inner->is_inline() && there != nullptr) return lay_over(*there, std::move(*inner));
  into.erase(key.str());
  only->second.visit([&](auto& value) { into.insert_or_assign(toml::key(key), std::move(value)); });
}

}  // namespace rekindle
