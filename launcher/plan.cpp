// SPDX-License-Identifier: Apache-2.0
#include "launcher/plan.h"

#include <sys/wait.h>

#include <algorithm>
#include <cerrno>
#include <cmath>
#include <cstdio>
#include <memory>
#include <nlohmann/json.hpp>

#include "core/file_system.h"
#include "core/text.h"
#include "job/job.h"
#include "launcher/compose.h"
#include "launcher/plot.h"
#include "launcher/table.h"

namespace rekindle {
namespace {

using nlohmann::ordered_json;

// What the worker printed; its complaints go to standard error by themselves.
std::string ask(const Launch& launch, ExitCode& code) {
  const std::unique_ptr<FILE, int (*)(FILE*)> pipe(
      popen(("exec env " + shell_line(launch, false)).c_str(), "r"), [](FILE*) { return 0; });
  if (!pipe) throw system_error("cannot start", errno, launch.program.string());
  std::string text;
  char chunk[1 << 14];
  while (const size_t count = fread(chunk, 1, sizeof chunk, pipe.get())) text.append(chunk, count);
  const int status = pclose(pipe.get());
  if (WIFSIGNALED(status)) {
    throw Error("the worker was killed by signal " + std::to_string(WTERMSIG(status)),
                {launch.program.string(), "it looks at the job, the data and the model, and gave no answer"});
  }
  code = static_cast<ExitCode>(WEXITSTATUS(status));
  return text;
}

std::string percent(double share) {
  char text[32];
  std::snprintf(text, sizeof text, "%.1f %%", 100 * share);
  return text;
}

std::string some_of(const ordered_json& list) {
  constexpr size_t kMost = 12;
  std::string text;
  for (size_t i = 0; i < list.size() && i < kMost; ++i) {
    const ordered_json& item = list[i];
    text += (i ? ", " : "") +
            (item.is_string() ? item.get<std::string>()
                              : item["from"].get<std::string>() + " as " + item["to"].get<std::string>());
  }
  return list.size() > kMost ? text + " and " + std::to_string(list.size() - kMost) + " more" : text;
}

void print_warm_start(const ordered_json& load) {
  std::printf("\nwarm start from %s\n", load["from"].get<std::string>().c_str());
  std::vector<std::vector<std::string>> rows{
      {"  loaded", percent(load["loaded_share"]) + " of the parameters, " +
                       std::to_string(load["loaded"].size()) + " tensors, " + bytes_text(load["bytes"])}};
  for (const char* part : {"renamed", "resized", "converted", "fresh", "unused"})
    if (!load[part].empty()) rows.push_back({std::string("  ") + part, some_of(load[part])});
  std::fputs(table(rows).c_str(), stdout);
}

std::string time_text(double seconds) {
  if (seconds < 100) return short_number(seconds) + " s";
  const auto minutes = static_cast<int64_t>(std::llround(seconds / 60));
  return minutes < 60 ? std::to_string(minutes) + " min"
                      : std::to_string(minutes / 60) + " h " + std::to_string(minutes % 60) + " min";
}

// What is trained otherwise than the rest.
void print_treatment(const ordered_json& optimizer) {
  std::vector<std::vector<std::string>> rows;
  for (const ordered_json& group : optimizer["groups"]) {
    std::string how = grouped(group["parameters"]) + " parameters";
    if (group["freeze"]) {
      how += ", frozen";
    } else {
      how += ", rate x " + short_number(group["lr_factor"]) + ", weight decay " +
             short_number(group["weight_decay"]);
    }
    if (group.contains("unfreeze_at")) how += ", frozen up to " + group["unfreeze_at"].get<std::string>();
    rows.push_back({"group " + some_of(group["match"]), how});
  }
  const bool decays = optimizer["decays"], adapts = optimizer["adapts"];
  if ((decays || adapts) && !optimizer["no_decay"].empty()) {
    const char* const what = !adapts ? "no weight decay" : decays ? "no decay, not adapted" : "not adapted";
    rows.push_back({what, some_of(optimizer["no_decay"])});
  }
  for (const ordered_json& layer : optimizer["layers"])
    rows.push_back({"rate x " + short_number(layer["lr_factor"]), some_of(layer["parameters"])});
  if (!rows.empty()) std::printf("\n%s", table(rows).c_str());
}

std::string cell(const ordered_json& row, const char* key) {
  if (!row.contains(key)) return "";
  const ordered_json& value = row[key];
  if (value.is_number_float() && value.get<double>() == std::floor(value.get<double>()) && value < 1e15)
    return grouped(static_cast<int64_t>(value.get<double>()));
  return value.is_number_float() ? short_number(value) : grouped(value.get<int64_t>());
}

void print_worlds(const ordered_json& worlds) {
  const bool by_time = worlds[0].contains("seconds");
  std::vector<const char*> keys{"workers", "global_batch", "per_worker", "accumulation"};
  std::vector<std::string> heading{"workers", "global batch", "a worker", "passes"};
  if (by_time) {
    keys.insert(keys.end(), {"seconds", "warmup_seconds"});
    heading.insert(heading.end(), {"seconds", "warm-up, s"});
  } else {
    keys.insert(keys.end(),
                {"steps", "samples", "epochs", "warmup_steps", "warmup_samples", "warmup_epochs"});
    heading.insert(heading.end(),
                   {"steps", "samples", "epochs", "warm-up steps", "warm-up samples", "warm-up epochs"});
  }
  keys.push_back("peak_lr");
  heading.emplace_back("peak rate");
  const bool idle =
      std::ranges::any_of(worlds, [](const ordered_json& row) { return row["idle_share"] > 0.0; });
  if (idle) heading.emplace_back("idle");
  const bool timed =
      std::ranges::any_of(worlds, [](const ordered_json& row) { return row.contains("expected_seconds"); });
  if (timed) heading.emplace_back("expected");
  std::vector<std::vector<std::string>> rows{heading};
  for (const ordered_json& world : worlds) {
    rows.emplace_back();
    for (const char* key : keys) rows.back().push_back(cell(world, key));
    if (idle) rows.back().push_back(percent(world["idle_share"]));
    if (timed)
      rows.back().push_back(world.contains("expected_seconds") ? time_text(world["expected_seconds"]) : "");
  }
  std::printf("\n%s", table(rows).c_str());
}

void print(const ordered_json& answer) {
  const ordered_json &model = answer["model"], &data = answer["data"];
  std::printf("%s: %s parameters", model["name"].get<std::string>().c_str(),
              grouped(model["parameters"]).c_str());
  if (model["frozen"] != 0) std::printf(", %s frozen", grouped(model["frozen"]).c_str());
  std::printf(
      "\n%s samples in %s: %s to train on, %s for validation, %s for the test; %s classes\n",
      grouped(data["samples"]).c_str(),
      (grouped(data["increments"]) + (data["increments"] == 1 ? " increment" : " increments")).c_str(),
      grouped(data["train"]).c_str(), grouped(data["validation"]).c_str(), grouped(data["test"]).c_str(),
      grouped(data["classes"]).c_str());
  if (!answer["warm_start"].is_null()) print_warm_start(answer["warm_start"]);
  print_treatment(answer["optimizer"]);
  print_worlds(answer["worlds"]);
  const auto is_epoch = [&](const ordered_json& row) { return row["global_batch"] > data["train"]; };
  if (std::ranges::any_of(answer["worlds"], is_epoch))
    std::puts("\nthe batch is larger than an epoch: a step is an epoch, at the rate of the whole batch");
}

// One object a number of workers, with what is the same for all in each.
ordered_json list_of(const ordered_json& answer) {
  ordered_json list = ordered_json::array();
  for (ordered_json world : answer["worlds"]) {
    for (const char* key : {"model", "data", "warm_start", "optimizer"}) world[key] = answer[key];
    list.push_back(std::move(world));
  }
  return list;
}

Curve curve_of(const ordered_json& answer) {
  Curve curve{{}, answer["curve"]["unit"]};
  for (const ordered_json& point : answer["curve"]["points"]) curve.points.emplace_back(point[0], point[1]);
  return curve;
}

// What stands there already is an older picture, or a file that is not ours to replace.
void check_picture(const std::filesystem::path& path) {
  FileSystem& files = posix_file_system();
  if (path.empty() || !files.exists(path)) return;
  if (!files.is_directory(path) && read_text(files, path).starts_with("<svg")) return;
  throw bad_input("there is something else than a picture here", path.string(),
                  "give --svg the path of a new file");
}

void draw(const PlanCommand& command, const ordered_json& answer) {
  const ordered_json& worlds = answer["worlds"];
  const std::string of = worlds.size() > 1 ? " with workers: " + cell(worlds[0], "workers") : "";
  if (command.plot) std::printf("\nlearning rate%s\n%s", of.c_str(), plot_text(curve_of(answer)).c_str());
  if (command.svg.empty()) return;
  replace_file(posix_file_system(), command.svg,
               plot_svg(curve_of(answer), "learning rate of " + command.job.filename().string()));
}

}  // namespace

ExitCode plan(const PlanCommand& command) {
  check_picture(command.svg);
  const Job job = read_job(command.job, command.overrides);  // mistakes are told before anything is started
  ExitCode code = ExitCode::kDone;
  const std::string text = ask(compose_describe(command, job.run.threads), code);
  if (code != ExitCode::kDone) return code;
  const ordered_json answer = ordered_json::parse(text);
  command.json ? static_cast<void>(std::puts(list_of(answer).dump(2).c_str())) : print(answer);
  draw(command, answer);
  const ordered_json& load = answer["warm_start"];
  if (load.is_null() || load["enough"]) return ExitCode::kDone;
  std::fflush(stdout);
  throw bad_input("too little would be loaded: " + percent(load["loaded_share"]) +
                      " of the parameters, and "
                      "warm_start.min_loaded is " +
                      percent(load["min_loaded"]),
                  load["from"], "check the model and the names of its tensors; warm_start.rename maps them");
}

}  // namespace rekindle
