// SPDX-License-Identifier: Apache-2.0
#include "worker/metrics_log.h"

#include <gtest/gtest.h>

#include "tests/support/temp_directory.h"

namespace rekindle {
namespace {

TEST(MetricsLog, OneObjectALineAndNumbersRoundTrip) {
  TempDirectory directory;
  const auto path = directory.path() / "metrics.jsonl";
  FileSystem& files = posix_file_system();
  const double third = 1.0 / 3;
  MetricsLog(files, path).write("step", {{"loss", third}, {"step", 3}});
  MetricsLog(files, path).write("end", {{"status", "done"}});
  const std::string text = read_text(files, path);
  EXPECT_TRUE(text.starts_with("{\"event\":\"step\",\"loss\":0.333"));
  const auto first = nlohmann::json::parse(text.substr(0, text.find('\n')));
  EXPECT_EQ(first["loss"].get<double>(), third);
  EXPECT_EQ(std::count(text.begin(), text.end(), '\n'), 2);
  EXPECT_TRUE(ends_done(files, path));
}

TEST(MetricsLog, ALineThatACrashCutOffIsDropped) {
  TempDirectory directory;
  const auto path = directory.path() / "metrics.jsonl";
  FileSystem& files = posix_file_system();
  write_synced(files, path, "{\"event\":\"start\"}\n{\"event\":\"st");
  EXPECT_FALSE(ends_done(files, path));
  MetricsLog(files, path).write("restart", {{"step", 1}});
  EXPECT_EQ(read_text(files, path), "{\"event\":\"start\"}\n{\"event\":\"restart\",\"step\":1}\n");
}

TEST(MetricsLog, OnlyAnEndThatIsDoneIsDone) {
  TempDirectory directory;
  const auto path = directory.path() / "metrics.jsonl";
  FileSystem& files = posix_file_system();
  EXPECT_FALSE(ends_done(files, path));
  MetricsLog(files, path).write("end", {{"status", "preempted"}});
  EXPECT_FALSE(ends_done(files, path));
  MetricsLog().write("step", {{"step", 1}});  // without a file it goes nowhere
}

}  // namespace
}  // namespace rekindle
