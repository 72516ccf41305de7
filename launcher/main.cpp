// SPDX-License-Identifier: Apache-2.0
#include <cstdio>

#include "core/error.h"
#include "job/job.h"
#include "launcher/command_line.h"
#include "launcher/compose.h"
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
  const Launch launch = compose_mpirun(command, workers, job.run.threads, look_around(command));
  return command.dry_run ? answer(shell_line(launch) + "\n") : supervise(launch);
}

}  // namespace

int main(int argc, char** argv) {
  try {
    const CommandLine line = parse_command_line(argc, argv);
    return static_cast<int>(line.answer.empty() ? run(line.run) : answer(line.answer));
  } catch (const Error& error) {
    std::fprintf(stderr, "rekindle: %s\n", error.what());
    return static_cast<int>(error.code());
  } catch (
      const std::exception& error) {  // the standard library's: out of memory, a folder that cannot be read
    std::fprintf(stderr, "rekindle: %s\n", error.what());
    return static_cast<int>(ExitCode::kFailed);
  }
}
