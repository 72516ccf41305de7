// SPDX-License-Identifier: Apache-2.0
#include "launcher/child.h"

#include <fcntl.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <string>
#include <string_view>
#include <vector>

#include "core/error.h"

namespace rekindle {
namespace {

std::vector<char*> pointers(std::vector<std::string>& words) {
  std::vector<char*> all;
  for (std::string& word : words) all.push_back(word.data());
  all.push_back(nullptr);
  return all;
}

std::vector<std::string> environment_of(const Launch& launch) {
  std::vector<std::string> all;
  for (const auto& [name, value] : launch.environment) all.push_back(name + "=" + value);
  for (char** entry = environ; *entry; ++entry) {
    const std::string_view text(*entry);
    bool replaced = false;
    for (const auto& variable : launch.environment) replaced |= text.starts_with(variable.first + "=");
    if (!replaced) all.emplace_back(text);
  }
  return all;
}

// All that the child needs after fork(), where nothing may allocate or lock.
struct Prepared {
  const char* program;
  std::vector<char*> arguments, environment;
  sigset_t mask;
  pid_t parent;
  int errors, reason;  // ends of pipes to write to
};

[[noreturn]] void become(const Prepared& prepared) {
  // TERM and not KILL, after which mpirun could neither end its workers nor tidy up behind them.
  prctl(PR_SET_PDEATHSIG, SIGTERM);
  if (getppid() != prepared.parent) _exit(1);  // the parent was killed before that line
  setsid();
  dup2(open("/dev/null", O_RDONLY), STDIN_FILENO);
  dup2(prepared.errors, STDERR_FILENO);
  std::signal(SIGPIPE, SIG_DFL);
  sigprocmask(SIG_SETMASK, &prepared.mask, nullptr);
  execve(prepared.program, prepared.arguments.data(), prepared.environment.data());
  const int error = errno;
  [[maybe_unused]] const ssize_t told = write(prepared.reason, &error, sizeof error);
  _exit(1);
}

void make_pipe(Descriptor& read_end, Descriptor& write_end) {
  int ends[2];
  if (pipe2(ends, O_CLOEXEC) != 0) throw system_error("cannot make a pipe", errno);
  read_end.reset(ends[0]);
  write_end.reset(ends[1]);
}

}  // namespace

void Descriptor::reset(int number) {
  if (number_ >= 0) ::close(number_);
  number_ = number;
}

SignalQueue::SignalQueue(std::initializer_list<int> signals) {
  std::signal(SIGPIPE, SIG_IGN);  // a closed terminal must not end the supervision
  std::signal(SIGCHLD, SIG_DFL);  // inherited as ignored, it would take the child's status away
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, SIGCHLD);
  for (const int signal : signals) sigaddset(&set, signal);
  sigprocmask(SIG_BLOCK, &set, &before_);
  queue_.reset(signalfd(-1, &set, SFD_NONBLOCK | SFD_CLOEXEC));
  if (queue_.get() < 0) throw system_error("cannot wait for signals", errno);
}

SignalQueue::~SignalQueue() {
  sigprocmask(SIG_SETMASK, &before_, nullptr);
}

std::optional<int> SignalQueue::next() {
  signalfd_siginfo info;
  if (read(queue_.get(), &info, sizeof info) != sizeof info) return {};
  return static_cast<int>(info.ssi_signo);
}

Child::Child(const Launch& launch, const sigset_t& mask) {
  Descriptor to_errors, reason, to_reason;
  make_pipe(errors_, to_errors);
  make_pipe(reason, to_reason);
  std::vector<std::string> words{launch.program.filename().string()}, variables = environment_of(launch);
  words.insert(words.end(), launch.arguments.begin(), launch.arguments.end());
  const Prepared prepared{launch.program.c_str(), pointers(words), pointers(variables), mask, getpid(),
                          to_errors.get(),        to_reason.get()};
  id_ = fork();
  if (id_ < 0) throw system_error("cannot start a process", errno);
  if (id_ == 0) become(prepared);

  to_errors.reset();
  to_reason.reset();
  fcntl(errors_.get(), F_SETFL, O_NONBLOCK);
  int error = 0;
  if (read(reason.get(), &error, sizeof error) ==
      sizeof error) {  // a successful exec closes it without a byte
    waitpid(id_, nullptr, 0);
    throw system_error("cannot start mpirun", error, launch.program.string());
  }
}

void Child::send(int signal) const {
  if (!status_) kill(id_, signal);  // once it was waited for, its number may be another's
}

std::optional<int> Child::ended() {
  int status = 0;
  if (!status_ && waitpid(id_, &status, WNOHANG) == id_) status_ = status;
  return status_;
}

}  // namespace rekindle
