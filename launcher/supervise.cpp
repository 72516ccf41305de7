// SPDX-License-Identifier: Apache-2.0
#include "launcher/supervise.h"

#include <poll.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <csignal>
#include <cstring>
#include <optional>
#include <string>
#include <string_view>

#include "launcher/banner_filter.h"
#include "launcher/child.h"
#include "launcher/scratch.h"

namespace rekindle {
namespace {

using namespace std::string_literals;

constexpr int kAskAgainMs = 1000;

void say(std::string_view text) {
  while (!text.empty()) {
    const ssize_t written = write(STDERR_FILENO, text.data(), text.size());
    if (written < 0 && errno == EINTR) continue;
    if (written <= 0) return;  // nobody listens any more
    text.remove_prefix(static_cast<size_t>(written));
  }
}

// Passes on what mpirun wrote by now.
void pass_on(Child& child, BannerFilter& filter) {
  std::array<char, 16384> bytes;
  while (child.errors() >= 0) {
    const ssize_t count = read(child.errors(), bytes.data(), bytes.size());
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) return;  // nothing more for now
    if (count == 0) return child.close_errors();
    say(filter.take({bytes.data(), static_cast<size_t>(count)}));
  }
}

// Whether `signal` asks to stop. Only people repeat themselves; a closing session sends TERM and HUP at once.
bool asks(int signal, int times_asked) {
  const bool by_hand = signal == SIGINT || signal == SIGTERM;
  return by_hand || (times_asked == 0 && signal != SIGCHLD);
}

void stop(const Child& child, int times_asked) {
  if (times_asked == 1) {
    say("rekindle: asked to stop; the workers save a checkpoint and end (ask again to end them at once)\n");
    child.send(SIGUSR2);
  } else {
    child.send(times_asked == 2 ? SIGTERM : SIGKILL);
  }
}

// Stays until mpirun has ended. Returns how often somebody asked to stop.
int wait_for_end(Child& child, SignalQueue& signals, BannerFilter& filter, bool saves) {
  int asked = 0;
  const int skipped = saves ? 0 : 1;  // what has nothing to save is ended when first asked
  while (!child.ended()) {
    pollfd waits[] = {{child.errors(), POLLIN, 0}, {signals.descriptor(), POLLIN, 0}};
    const int ready = poll(waits, 2, asked == 1 && saves ? kAskAgainMs : -1);
    if (ready == 0) child.send(SIGUSR2);  // mpirun passes on nothing before its workers run, so ask again
    pass_on(child, filter);
    bool request = false;  // one, however many signals came together
    while (const std::optional<int> signal = signals.next()) request |= asks(*signal, asked);
    if (request) stop(child, ++asked + skipped);
  }
  pass_on(child, filter);
  say(filter.finish());
  return asked > 0 ? asked + skipped : 0;
}

// How mpirun ended, and what it said of the first rank that ended badly.
struct End {
  int code;    // -1: a signal ended mpirun itself
  int signal;  // that ended mpirun or, as far as it is known, the first worker to end; else 0
  std::optional<RankEnd> rank;
};

End read_end(int status, const std::optional<RankEnd>& rank) {
  if (WIFSIGNALED(status)) return {.code = -1, .signal = WTERMSIG(status), .rank = rank};
  const int code = WEXITSTATUS(status);
  const int told = code > 128 && code <= 128 + SIGSYS ? code - 128 : 0;  // as shells have it
  return {.code = code, .signal = rank ? rank->signal : told, .rank = rank};
}

std::string sentence(const End& end, bool saves) {
  const std::string resume = saves ? "; run again to resume from the last checkpoint" : "";
  const std::string rank = end.rank ? "rank " + std::to_string(end.rank->rank) : "";
  if (end.signal != 0) {
    const std::string who = end.code < 0 ? "mpirun" : end.rank ? rank : "a worker";
    return who + " was killed by signal " + std::to_string(end.signal) + " (" + strsignal(end.signal) + ")" +
           resume;
  }
  if (end.rank && !end.rank->code) return rank + " ended before the run was over" + resume;
  const int code = end.rank ? *end.rank->code : end.code;
  return (end.rank ? rank : "the run") + " ended with exit code " + std::to_string(code) +
         "; its message is above";
}

ExitCode our_code(int code) {
  for (const ExitCode known : {ExitCode::kDone, ExitCode::kParentStays, ExitCode::kUsage,
                               ExitCode::kPreempted, ExitCode::kBadInput, ExitCode::kDoNotRequeue}) {
    if (static_cast<int>(known) == code) return known;
  }
  return ExitCode::kFailed;
}

// Says the last line, where there is something to say. Returns what to end with.
ExitCode conclude(const End& end, int asked, bool saves) {
  const ExitCode code = our_code(end.code);
  if (code == ExitCode::kDone || code == ExitCode::kParentStays || code == ExitCode::kPreempted) return code;
  if (asked == 1 && end.signal == SIGUSR2) {
    // A worker takes the request from its first line on; this one was not there yet.
    say("rekindle: stopped before the workers had begun\n");
    return ExitCode::kPreempted;
  }
  say("rekindle: " + (asked > 1 ? "ended at once, as asked"s : sentence(end, saves)) + "\n");
  return code;
}

}  // namespace

ExitCode supervise(const Launch& launch) {
  SignalQueue signals({SIGINT, SIGTERM, SIGHUP, SIGUSR2});
  const Scratch scratch;
  Child child(scratch.apply_to(launch), signals.mask_before());
  BannerFilter filter;
  const int asked = wait_for_end(child, signals, filter, launch.saves);
  return conclude(read_end(*child.ended(), filter.first_end()), asked, launch.saves);
}

}  // namespace rekindle
