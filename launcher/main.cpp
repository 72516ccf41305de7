// SPDX-License-Identifier: Apache-2.0
#include <chrono>
#include <cstdio>

#include "core/error.h"
#include "job/job.h"
#include "launcher/command_line.h"
#include "launcher/compose.h"
#include "launcher/look.h"
#include "launcher/plan.h"
#include "launcher/supervise.h"

namespace {

using namespace rekindle;

ExitCode answer(const std::string& text) {
  std::fputs(text.c_str(), stdout);
  return ExitCode::kDone;
}

ExitCode run(const RunCommand& command) {
  const Job job = read_job(command.job, command.overrides);
  const int workers = command.workers.value_or(job.run.workers);
  const Launch launch = compose_mpirun(command, workers, job.run.threads, look_around(command.worker));
  return command.dry_run ? answer(shell_line(launch) + "\n") : supervise(launch);
}

double now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

ExitCode bench(const BenchCommand& command, double launched) {
  int workers = command.workers.value_or(1), threads = 1;
  if (!command.job.empty()) {
    const Job job = read_job(command.job, command.overrides);
    workers = command.workers.value_or(job.run.workers);
    threads = job.run.threads;
  }
  return supervise(compose_mpirun(command, workers, threads, launched, look_around(command.worker)));
}

ExitCode look(const LookCommand& command) {
  FileSystem& files = posix_file_system();
  if (command.what == "inspect") return inspect(files, command.path, command.json);
  if (command.what == "verify") return verify(files, command.path, command.json);
  if (command.what == "lineage") return lineage(files, command.path, command.json);
  return diff(files, command.path, command.other, command.json);
}

ExitCode perform(const CommandLine& line, double launched) {
  if (!line.answer.empty()) return answer(line.answer);
  if (line.plan) return plan(*line.plan);
  if (line.look) return look(*line.look);
  return line.bench ? bench(*line.bench, launched) : run(line.run);
}

}  // namespace

int main(int argc, char** argv) {
  const double launched = now();
  try {
    return static_cast<int>(perform(parse_command_line(argc, argv), launched));
  } catch (const Error& error) {
    std::fprintf(stderr, "rekindle: %s\n", error.what());
    return static_cast<int>(error.code());
  } catch (
      const std::exception& error) {  // the standard library's: out of memory, a folder that cannot be read
    std::fprintf(stderr, "rekindle: %s\n", error.what());
    return static_cast<int>(ExitCode::kFailed);
  }
}
