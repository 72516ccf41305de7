// SPDX-License-Identifier: Apache-2.0
#include "core/log.h"

#include <spdlog/sinks/basic_file_sink.h>
#include <spdlog/sinks/stdout_color_sinks.h>
#include <spdlog/spdlog.h>

#include <string>

#include "core/error.h"

namespace rekindle {

void start_log(const LogOptions& options) {
  const std::string rank = options.world > 1 ? "[" + std::to_string(options.rank) + "] " : "";
  auto console = std::make_shared<spdlog::sinks::stderr_color_sink_mt>();
  console->set_level(options.rank == 0 ? spdlog::level::info : spdlog::level::warn);
  console->set_pattern("%H:%M:%S %^%L%$ " + rank + "%v");
  auto logger = std::make_shared<spdlog::logger>("rekindle", console);
  if (!options.file.empty()) {
    try {
      auto file = std::make_shared<spdlog::sinks::basic_file_sink_mt>(options.file.string());
      file->set_pattern("%Y-%m-%dT%H:%M:%S.%e %L " + rank + "%v");
      logger->sinks().push_back(file);
    } catch (const spdlog::spdlog_ex& failure) {
      throw Error(std::string("cannot write the log: ") + failure.what(),
                  {options.file.string(), "", ExitCode::kFailed});
    }
  }
  logger->set_level(spdlog::level::info);
  logger->flush_on(spdlog::level::info);
  spdlog::set_default_logger(std::move(logger));
}

// The text is an argument, never the format: it may hold braces.
void log_info(const std::string& text) {
  spdlog::info("{}", text);
}
void log_warning(const std::string& text) {
  spdlog::warn("{}", text);
}
void log_error(const std::string& text) {
  spdlog::error("{}", text);
}

}  // namespace rekindle
