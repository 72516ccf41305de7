// SPDX-License-Identifier: Apache-2.0
// docs/job-file.md and the table of keys say the same.
#include <gmock/gmock.h>

#include <fstream>
#include <map>

#include "job/keys.h"

namespace rekindle {
namespace {

using Rows = std::map<std::string, std::vector<std::string>>;  // by section

template <typename Target>
void add_rows(const std::vector<Key<Target>>& keys, Rows& rows) {
  for (const Key<Target>& key : keys) {
    rows[key.section].push_back("| `" + key.name + "` | " + key.type + " | " + key.fallback + " | " +
                                key.meaning + " |");
  }
}

// The rows of all tables that stand under a heading "## [section]".
Rows rows_of_docs() {
  std::ifstream docs(REKINDLE_SOURCE_DIR "/docs/job-file.md");
  EXPECT_TRUE(docs) << "docs/job-file.md is missing";
  Rows rows;
  std::string section;
  for (std::string line; std::getline(docs, line);) {
    if (line.starts_with("## ")) section = line.starts_with("## [") ? line.substr(4, line.size() - 5) : "";
    if (!section.empty() && line.starts_with("| `")) rows[section].push_back(line);
  }
  return rows;
}

TEST(Docs, TheTablesHaveEveryKeyAsTheCodeHasIt) {
  Rows code;
  add_rows(job_keys(), code);
  add_rows(increment_keys(), code);
  add_rows(group_keys(), code);
  const Rows docs = rows_of_docs();
  for (const auto& [section, rows] : code) {
    ASSERT_TRUE(docs.contains(section)) << "docs/job-file.md lacks [" << section << "]";
    EXPECT_EQ(docs.at(section), rows) << "[" << section << "]";
  }
  for (const auto& [section, rows] : docs)
    EXPECT_TRUE(code.contains(section)) << "no such section: " << section;
}

TEST(Docs, NoCellBreaksItsTable) {
  for (const Key<Job>& key : job_keys()) {
    for (const std::string& cell : {key.name, key.type, key.fallback, key.meaning}) {
      EXPECT_EQ(cell.find('|'), std::string::npos) << key.full_name();
      EXPECT_FALSE(cell.empty()) << key.full_name();
    }
  }
}

}  // namespace
}  // namespace rekindle
