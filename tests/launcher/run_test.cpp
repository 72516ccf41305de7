// SPDX-License-Identifier: Apache-2.0
// The program as people start it, with real processes under a real mpirun. The workers are small shell
// scripts.
#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <functional>
#include <map>
#include <optional>
#include <sstream>
#include <string>
#include <thread>
#include <vector>

namespace rekindle {
namespace {

namespace fs = std::filesystem;
using testing::HasSubstr;
using testing::MatchesRegex;
using testing::Not;

constexpr std::chrono::seconds kPatience(20);  // only a hang takes this long

std::string text_of(const fs::path& path) {
  std::ifstream file(path);
  std::stringstream text;
  text << file.rdbuf();
  return text.str();
}

bool comes_true(const std::function<bool()>& condition) {
  const auto deadline = std::chrono::steady_clock::now() + kPatience;
  while (!condition()) {
    if (std::chrono::steady_clock::now() > deadline) return false;
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  }
  return true;
}

// Whether a process runs. A zombie does not: nobody may be there to collect it.
bool runs(pid_t id) {
  const std::string stat = text_of("/proc/" + std::to_string(id) + "/stat");
  const size_t name_end = stat.rfind(')');
  return name_end != std::string::npos && stat.compare(name_end, 3, ") Z") != 0;
}

std::string last_line(std::string text) {
  if (text.ends_with('\n')) text.pop_back();
  return text.substr(text.rfind('\n') + 1);
}

// A started program, in a process group of its own and with an input that never ends, as in a terminal.
// Killed when it is destroyed, should it still run.
class Process {
 public:
  // `environment`: variables to set, or to unset where there is no value.
  Process(const std::vector<std::string>& words, const fs::path& folder,
          const std::map<std::string, std::optional<std::string>>& environment) {
    out_ = folder / "out.txt", err_ = folder / "err.txt";
    int input[2];
    if (pipe2(input, O_CLOEXEC) != 0) ADD_FAILURE() << "no pipe";
    id_ = fork();
    if (id_ != 0) {
      close(input[0]);
      input_ = input[1];
      return;
    }
    setpgid(0, 0);
    dup2(input[0], STDIN_FILENO);
    for (const auto& [name, value] : environment) {
      value ? setenv(name.c_str(), value->c_str(), 1) : unsetenv(name.c_str());
    }
    dup2(open(out_.c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0600), STDOUT_FILENO);
    dup2(open(err_.c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0600), STDERR_FILENO);
    std::vector<char*> arguments;
    for (const std::string& word : words) arguments.push_back(const_cast<char*>(word.c_str()));
    arguments.push_back(nullptr);
    if (chdir(folder.c_str()) == 0) execv(arguments[0], arguments.data());
    _exit(127);
  }
  Process(const Process&) = delete;
  Process& operator=(const Process&) = delete;
  ~Process() {
    if (!status_) kill(id_, SIGKILL), waitpid(id_, nullptr, 0);
    close(input_);
  }

  void send(int signal) { kill(id_, signal); }
  void type_ctrl_c() { kill(-id_, SIGINT); }  // a terminal's goes to the whole group

  // The exit code; -signal where it was killed; -1000 where it never ends.
  int code() {
    int status = 0;
    if (!status_ && comes_true([&] { return waitpid(id_, &status, WNOHANG) == id_; })) status_ = status;
    if (!status_) return -1000;
    return WIFEXITED(*status_) ? WEXITSTATUS(*status_) : -WTERMSIG(*status_);
  }

  std::string out() const { return text_of(out_); }
  std::string err() const { return text_of(err_); }

 private:
  pid_t id_;
  int input_ = -1;
  fs::path out_, err_;
  std::optional<int> status_;
};

class Run : public testing::Test {
 protected:
  void SetUp() override {
    // A blank and a quote in every path: nothing may go through a shell.
    std::string name = (fs::temp_directory_path() / "it's a rekindle test XXXXXX").string();
    folder_ = mkdtemp(name.data());
    write("job.toml",
          "[data]\nkind = \"safetensors\"\nincrements = [{ path = \"x.safetensors\" }]\n"
          "[batch]\nglobal = 64\n[schedule]\nbase_lr = 0.1\n"
          "[run]\ndirectory = \"run\"\nduration = \"1ep\"\nworkers = 2\n");
    write("x.safetensors", "");
  }
  void TearDown() override { fs::remove_all(folder_); }

  void write(const std::string& name, const std::string& text) { std::ofstream(folder_ / name) << text; }

  void write_worker(const std::string& body) {
    write("worker", "#!/bin/sh\nrank=$OMPI_COMM_WORLD_RANK\n" + body + "\n");
    fs::permissions(folder_ / "worker", fs::perms::owner_all);
  }

  // rekindle run job.toml --worker ./worker, and what comes after it.
  std::unique_ptr<Process> start(const std::vector<std::string>& more = {}) {
    std::vector<std::string> words{REKINDLE_PROGRAM, "run", "job.toml", "--worker", "./worker"};
    words.insert(words.end(), more.begin(), more.end());
    return std::make_unique<Process>(words, folder_, environment_);
  }

  bool both_ready() {
    return comes_true([&] { return fs::exists(folder_ / "ready.0") && fs::exists(folder_ / "ready.1"); });
  }
  pid_t process_of(int rank) { return std::stoi(text_of(folder_ / ("ready." + std::to_string(rank)))); }

  fs::path folder_;
  // Root is allowed by the launcher itself, not by what the tests run in.
  std::map<std::string, std::optional<std::string>> environment_{{"OMPI_ALLOW_RUN_AS_ROOT", {}},
                                                                 {"OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", {}}};
};

// Those that need mpirun.
class RunUnderMpi : public Run {
 protected:
  void SetUp() override {
    Run::SetUp();
    if (std::system("command -v mpirun >/dev/null") != 0) GTEST_SKIP() << "there is no mpirun here";
  }

  // A rank writes its process id under its final name at once, and then waits, as a training loop would.
  const std::string announce_ = "echo $$ > tmp.$rank && mv tmp.$rank ready.$rank\n";
  // It ends with the test's folder, so that no failure leaves it behind.
  const std::string wait_ = "while [ -e job.toml ]; do sleep 0.05; done\n";
};

TEST_F(RunUnderMpi, PassesTheWorkersExitCodeThrough) {
  write_worker("exit $CODE");
  const std::map<int, int> ours{{0, 0}, {1, 1}, {3, 3}, {75, 75}, {78, 78}, {93, 93}, {42, 1}};
  for (const auto& [theirs, expected] : ours) {
    environment_["CODE"] = std::to_string(theirs);
    const auto run = start();
    EXPECT_EQ(run->code(), expected) << theirs;
    const bool well = theirs == 0 || theirs == 3 || theirs == 75;
    const std::string line = "ended with exit code " + std::to_string(theirs) + "; its message is above\n";
    EXPECT_THAT(run->err(), MatchesRegex(well ? "" : "rekindle: (rank [01]|the run) " + line));
  }
}

TEST_F(RunUnderMpi, GivesTheWorkersWhatTheyNeed) {
  write_worker(
      "{ for word; do echo \"$word\"; done; echo $OMPI_COMM_WORLD_SIZE; echo $OMP_NUM_THREADS; } > "
      "args.$rank\n"
      "echo \"out $rank\"; echo \"err $rank\" >&2\n"
      "read nothing || echo end of input");
  environment_["OMP_NUM_THREADS"] = std::nullopt;
  const auto run = start({"-n", "3", "run.threads=2", "--exit-code", "model.hidden=[1, 2]"});
  EXPECT_EQ(run->code(), 0) << run->err();
  for (int rank = 0; rank < 3; ++rank) {
    const std::string number = std::to_string(rank);
    EXPECT_EQ(text_of(folder_ / ("args." + number)),
              "job.toml\n--exit-code\nrun.threads=2\nmodel.hidden=[1, 2]\n3\n2\n");
    EXPECT_THAT(run->out(), HasSubstr("out " + number));
    EXPECT_THAT(run->err(), HasSubstr("err " + number));
  }
  EXPECT_THAT(run->out(), HasSubstr("end of input"));

  environment_["OMP_NUM_THREADS"] = "5";
  EXPECT_EQ(start({"-n", "1"})->code(), 0);
  EXPECT_THAT(text_of(folder_ / "args.0"), HasSubstr("\n1\n5\n"));
}

#ifdef REKINDLE_MPI_WORKER
// Open MPI is sure to tell which rank it was only of those that called MPI_Init, as every worker does.
TEST_F(RunUnderMpi, NamesTheRankThatFailed) {
  struct Case {
    std::string deed;
    int code;
    std::string line;
  };
  const Case cases[] = {
      {"kill 9", 1, "rank 1 was killed by signal 9 (Killed); run again to resume from the last checkpoint"},
      {"exit 78", 78, "rank 1 ended with exit code 78; its message is above"},
      {"exit 0", 1, "rank 1 ended before the run was over; run again to resume from the last checkpoint"},
  };
  environment_["MPI_WORKER"] = REKINDLE_MPI_WORKER;
  for (const Case& failure : cases) {
    write_worker("[ $rank = 1 ] && exec \"$MPI_WORKER\" " + failure.deed + "\nexec \"$MPI_WORKER\" wait");
    const auto run = start();
    EXPECT_EQ(run->code(), failure.code) << failure.deed;
    EXPECT_EQ(run->err(), "rekindle: " + failure.line + "\n");
  }
}

TEST_F(RunUnderMpi, OpenMpisFilesGoWhenMpirunIsKilledAndThoseOfOtherRunsStay) {
  std::string name = (fs::temp_directory_path() / "rekindle-tmp-XXXXXX").string();
  const fs::path temporary = mkdtemp(name.data());
  fs::create_directory(temporary / "rekindle-mpi-other");  // young: its run may live
  std::ofstream(temporary / "rekindle-mpi-other" / "vader_segment.other");
  environment_["TMPDIR"] = temporary.string();
  environment_["MPI_WORKER"] = REKINDLE_MPI_WORKER;
  write_worker("echo $PPID > tmp.$rank && mv tmp.$rank ready.$rank\nexec \"$MPI_WORKER\" wait");
  const auto segments = [&] {
    size_t count = 0;
    for (const auto& entry : fs::recursive_directory_iterator(temporary))
      count += entry.path().filename().string().starts_with("vader_segment.");
    return count;
  };
  const auto run = start();
  ASSERT_TRUE(both_ready()) << run->err();
  EXPECT_TRUE(comes_true([&] { return segments() == 3; })) << run->err();  // that of the other run, and two
  kill(process_of(0), SIGKILL);                                            // mpirun
  EXPECT_EQ(run->code(), 1) << run->err();
  EXPECT_EQ(segments(), 1u);
  EXPECT_EQ(std::distance(fs::directory_iterator(temporary), {}), 1);
  fs::remove_all(temporary);
}

TEST_F(RunUnderMpi, WhatAKilledLauncherLeftGoesWithTheNext) {
  std::string name = (fs::temp_directory_path() / "rekindle-tmp-XXXXXX").string();
  const fs::path temporary = mkdtemp(name.data()), left = temporary / "rekindle-mpi-left";
  fs::create_directories(left / "ompi.host.0");
  fs::last_write_time(left, fs::file_time_type::clock::now() - std::chrono::hours(1));
  environment_["TMPDIR"] = temporary.string();
  write_worker("exit 0");
  const auto run = start();
  EXPECT_EQ(run->code(), 0) << run->err();
  EXPECT_TRUE(fs::is_empty(temporary));
  fs::remove_all(temporary);
}
#endif

TEST_F(RunUnderMpi, AskedToStopItLetsTheWorkersSave) {
  write_worker("trap 'exit 9' TERM INT\ntrap 'echo rank $rank saved; exit 75' USR2\n" + announce_ + wait_);
  for (const int signal : {SIGTERM, SIGINT, SIGHUP, SIGUSR2}) {
    fs::remove(folder_ / "ready.0"), fs::remove(folder_ / "ready.1");
    const auto run = start();
    ASSERT_TRUE(both_ready()) << run->err();
    signal == SIGINT ? run->type_ctrl_c() : run->send(signal);
    run->send(SIGHUP);  // as a closing session does, and not a second request
    EXPECT_EQ(run->code(), 75) << run->err();
    EXPECT_THAT(run->out(), HasSubstr("saved"));
    EXPECT_THAT(run->err(), HasSubstr("rekindle: asked to stop"));
    EXPECT_THAT(run->err(), Not(HasSubstr("Forwarding")));
  }
}

TEST_F(RunUnderMpi, AsksAgainUntilTheWorkersHeard) {
  // What comes before mpirun has started its workers is lost; so is the first request here.
  write_worker("trap 'asked=1$asked; [ $asked = 11 ] && exit 75' USR2\n" + announce_ + wait_);
  const auto run = start();
  ASSERT_TRUE(both_ready()) << run->err();
  run->send(SIGTERM);
  EXPECT_EQ(run->code(), 75) << run->err();
}

TEST_F(RunUnderMpi, AskedTwiceItEndsTheWorkers) {
  write_worker("trap '' USR2\n" + announce_ + wait_);
  const auto run = start();
  ASSERT_TRUE(both_ready()) << run->err();
  run->send(SIGTERM);
  ASSERT_TRUE(comes_true([&] { return !run->err().empty(); }));
  run->send(SIGINT);
  EXPECT_EQ(run->code(), 1);
  EXPECT_THAT(last_line(run->err()), HasSubstr("ended at once, as asked"));
  for (const int rank : {0, 1}) {
    const pid_t process = process_of(rank);
    EXPECT_TRUE(comes_true([&] { return !runs(process); })) << "rank " << rank;
  }
}

TEST_F(RunUnderMpi, AskedBeforeTheWorkersCanHearNothingIsLost) {
  write_worker(announce_ + wait_);  // dies of USR2, as a worker does that is not in main yet
  const auto run = start();
  ASSERT_TRUE(both_ready()) << run->err();
  run->send(SIGTERM);
  EXPECT_EQ(run->code(), 75);
  EXPECT_THAT(last_line(run->err()), HasSubstr("before the workers had begun"));
}

TEST_F(RunUnderMpi, KilledItLeavesNothingBehind) {
  write_worker("trap '' USR2\n" + announce_ + wait_);
  const auto run = start();
  ASSERT_TRUE(both_ready()) << run->err();
  std::ifstream stat("/proc/" + std::to_string(process_of(0)) + "/stat");
  std::string field;
  pid_t mpirun = 0;
  stat >> field >> field >> field >> mpirun;  // its parent
  ASSERT_TRUE(runs(mpirun));
  run->send(SIGKILL);
  EXPECT_EQ(run->code(), -SIGKILL);
  for (const pid_t process : {process_of(0), process_of(1), mpirun}) {
    EXPECT_TRUE(comes_true([&] { return !runs(process); }));
  }
}

TEST_F(RunUnderMpi, DryRunPrintsWhatAShellCanRun) {
  write_worker("{ for word; do echo \"$word\"; done; echo $OMPI_COMM_WORLD_SIZE; } > args.$rank");
  const auto dry = start({"-n", "2", "--dry-run", "model.hidden=[1, 2]", "run.seed=7"});
  ASSERT_EQ(dry->code(), 0) << dry->err();
  EXPECT_FALSE(fs::exists(folder_ / "args.0"));
  const std::string line = dry->out();
  EXPECT_EQ(std::count(line.begin(), line.end(), '\n'), 1) << line;

  Process shell({"/bin/sh", "-c", line}, folder_, environment_);
  EXPECT_EQ(shell.code(), 0) << shell.err();
  for (const char* args : {"args.0", "args.1"}) {
    EXPECT_EQ(text_of(folder_ / args), "job.toml\nmodel.hidden=[1, 2]\nrun.seed=7\n2\n");
  }
}

TEST_F(RunUnderMpi, TheWorkerLiesBesideTheProgramUnlessItIsNamed) {
  fs::create_directory(folder_ / "bin");
  fs::copy_file(REKINDLE_PROGRAM, folder_ / "bin/rekindle");
  const std::vector<std::string> words{folder_ / "bin/rekindle", "run", "job.toml", "--dry-run"};
  Process without(words, folder_, environment_);
  EXPECT_EQ(without.code(), 1);
  EXPECT_THAT(without.err(), HasSubstr("rekindle-worker is not beside rekindle"));

  write_worker("");
  fs::rename(folder_ / "worker", folder_ / "bin/rekindle-worker");
  Process with(words, folder_, environment_);
  EXPECT_EQ(with.code(), 0) << with.err();
  EXPECT_THAT(with.out(), HasSubstr("/bin/rekindle-worker"));

  const auto named = start({"--dry-run"});  // there is no ./worker any more
  EXPECT_EQ(named->code(), 64);
  EXPECT_THAT(named->err(), HasSubstr("./worker"));
}

TEST_F(Run, WithoutMpirunItSaysWhatToInstall) {
  write_worker("");
  environment_["PATH"] = folder_.string();
  for (const std::vector<std::string>& more : {std::vector<std::string>{}, {"--dry-run"}}) {
    const auto run = start(more);
    EXPECT_EQ(run->code(), 1);
    EXPECT_THAT(run->err(), HasSubstr("openmpi-bin"));
  }
}

TEST_F(Run, BadJobsEndWith78BeforeAnythingIsStarted) {
  write_worker("touch started");
  environment_["PATH"] = folder_.string();  // the job comes first, even where nothing could be started
  for (const char* override : {"run.no_such_key=1", "schedule.base_lr=-1", "run.workers=0"}) {
    const auto run = start({override});
    EXPECT_EQ(run->code(), 78) << override;
    EXPECT_FALSE(run->err().empty());
  }
  fs::remove(folder_ / "job.toml");
  const auto run = start();
  EXPECT_EQ(run->code(), 78);
  EXPECT_THAT(run->err(), HasSubstr("job.toml"));
  EXPECT_FALSE(fs::exists(folder_ / "started"));
}

TEST_F(Run, UsageErrorsEndWith64) {
  EXPECT_EQ(start({"-n", "0"})->code(), 64);
  EXPECT_EQ(start({"no-override"})->code(), 64);
  Process nothing({REKINDLE_PROGRAM}, folder_, environment_);
  EXPECT_EQ(nothing.code(), 64);
  EXPECT_THAT(nothing.err(), HasSubstr("rekindle --help"));
}

}  // namespace
}  // namespace rekindle
