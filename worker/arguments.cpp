// SPDX-License-Identifier: Apache-2.0
#include "worker/arguments.h"

#include <charconv>
#include <functional>
#include <map>

#include "core/error.h"

namespace rekindle {
namespace {

constexpr char kUsage[] =
    "usage: rekindle-worker JOB [--exit-code] [section.key=value ...]; measurements: rekindle bench --help; "
    "what "
    "it would do: rekindle plan --help";

Error usage_error(const std::string& what) {
  return Error(what, {.where = "", .hint = kUsage, .code = ExitCode::kUsage});
}

template <typename T>
T above_zero(const std::string& option, const std::string& text) {
  T value{};
  const char* const end = text.data() + text.size();
  const auto [stop, failure] = std::from_chars(text.data(), end, value);
  if (failure == std::errc() && stop == end && value > 0) return value;
  throw usage_error(option + " takes a number above 0, not '" + text + "'");
}

std::vector<int64_t> sizes_in(const std::string& option, const std::string& text) {
  std::vector<int64_t> sizes;
  for (size_t begin = 0; begin <= text.size();) {
    const size_t end = std::min(text.find(',', begin), text.size());
    sizes.push_back(above_zero<int64_t>(option, text.substr(begin, end - begin)));
    begin = end + 1;
  }
  return sizes;
}

Task task_named(const std::string& name) {
  if (name == "allreduce") return Task::kBenchAllReduce;
  if (name == "step") return Task::kBenchStep;
  if (name == "optimizer") return Task::kBenchOptimizer;
  throw usage_error("there is no bench '" + name + "', only allreduce, step and optimizer");
}

// The options that take a value.
using Setter = std::function<void(Arguments&, const std::string& option, const std::string& value)>;
const std::map<std::string, Setter>& setters() {
  static const std::map<std::string, Setter> table{
      {"--bench", [](Arguments& a, const auto&, const auto& value) { a.task = task_named(value); }},
      {"--bytes", [](Arguments& a, const auto& o, const auto& value) { a.bench.bytes = sizes_in(o, value); }},
      {"--worlds",
       [](Arguments& a, const auto& o, const auto& value) {
         for (const int64_t world : sizes_in(o, value)) a.worlds.push_back(static_cast<int>(world));
       }},
      {"--dtype", [](Arguments& a, const auto&, const auto& value) { a.bench.dtype = value; }},
      {"--seconds", [](Arguments& a, const auto& o,
                       const auto& value) { a.bench.seconds = above_zero<double>(o, value); }},
      {"--steps",
       [](Arguments& a, const auto& o, const auto& value) { a.bench.steps = above_zero<int64_t>(o, value); }},
      {"--launched", [](Arguments& a, const auto& o, const auto& value) {
         a.bench.launched = above_zero<double>(o, value);
       }}};
  return table;
}

}  // namespace

Arguments parse_arguments(int argc, const char* const* argv) {
  Arguments arguments;
  for (int i = 1; i < argc; ++i) {
    const std::string text = argv[i];
    if (const auto setter = setters().find(text); setter != setters().end()) {
      if (++i == argc) throw usage_error(text + " lacks its value");
      setter->second(arguments, text, argv[i]);
    } else if (text == "--exit-code") {
      arguments.exit_code = true;
    } else if (text == "--describe") {
      arguments.task = Task::kDescribe;
    } else if (text == "--schedule") {
      arguments.schedule = true;
    } else if (text == "--json") {
      arguments.bench.json = true;
    } else if (text.starts_with("-")) {
      throw usage_error("unknown option '" + text + "'");
    } else if (arguments.job.empty()) {
      arguments.job = text;
    } else {
      arguments.overrides.push_back(text);
    }
  }
  const bool wants_job = arguments.task != Task::kBenchAllReduce;
  if (wants_job && arguments.job.empty()) throw usage_error("no job file was given");
  if (!wants_job && !arguments.job.empty()) throw usage_error("bench allreduce takes no job file");
  return arguments;
}

}  // namespace rekindle
