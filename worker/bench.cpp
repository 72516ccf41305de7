// SPDX-License-Identifier: Apache-2.0
#include "worker/bench.h"

#include <ATen/ops/full.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <functional>
#include <map>
#include <nlohmann/json.hpp>
#include <span>

#include "comm/gradient_reducer.h"
#include "core/error.h"
#include "optimizers/optimizer.h"
#include "worker/model_card.h"
#include "worker/preflight.h"
#include "worker/setup.h"
#include "worker/trainer.h"
#include "worker/update.h"

namespace rekindle {
namespace {

using nlohmann::ordered_json;
using Op = Communicator::Op;

constexpr int kWarmups = 3, kFewest = 9, kMost = 5000;  // repetitions
constexpr char kWait[] = "bench";

double now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

double seconds_of(const std::function<void()>& call) {
  const double start = now();
  call();
  return now() - start;
}

// The median over repetitions of the slowest rank's time for `call`, in ms; all ranks begin each one
// together.
double median_ms(Communicator& communicator, double seconds, const std::function<void()>& call) {
  for (int i = 0; i < kWarmups; ++i) call();
  communicator.barrier(kWait);
  const at::Tensor once = at::full({1}, seconds_of(call), at::kDouble);
  communicator.all_reduce(once, Op::kMax, kWait);
  const auto repetitions =
      static_cast<int64_t>(std::clamp<double>(seconds / once.item<double>(), kFewest, kMost));

  const at::Tensor times = at::zeros({repetitions}, at::kDouble);
  const std::span<double> time(times.mutable_data_ptr<double>(), static_cast<size_t>(repetitions));
  for (double& t : time) {
    communicator.barrier(kWait);
    t = seconds_of(call);
  }
  communicator.all_reduce(times, Op::kMax, kWait);
  std::ranges::nth_element(time, time.begin() + repetitions / 2);
  return 1e3 * time[static_cast<size_t>(repetitions / 2)];
}

at::ScalarType dtype_named(const std::string& name) {
  static const std::map<std::string, at::ScalarType> known{{"float32", at::kFloat},
                                                           {"float64", at::kDouble},
                                                           {"bfloat16", at::kBFloat16},
                                                           {"float16", at::kHalf},
                                                           {"int64", at::kLong}};
  if (const auto found = known.find(name); found != known.end()) return found->second;
  throw Error("there is no dtype '" + name + "' to reduce",
              {"", "float32, float64, bfloat16, float16 or int64", ExitCode::kUsage});
}

void check(const BenchOptions& options) {
  const auto element = static_cast<int64_t>(at::elementSize(dtype_named(options.dtype)));
  for (const int64_t bytes : options.bytes) {
    if (bytes % element == 0) continue;
    throw Error(std::to_string(bytes) + " bytes hold no whole number of elements",
                {"--bytes", options.dtype + " has " + std::to_string(element) + " bytes", ExitCode::kUsage});
  }
}

// A rate that is wrong is worth nothing.
void check_sum(Communicator& communicator, const at::Tensor& tensor) {
  tensor.fill_(communicator.rank() + 1);
  communicator.all_reduce(tensor, Op::kSum, kWait);
  const int64_t expected = int64_t{communicator.world()} * (communicator.world() + 1) / 2;
  if (tensor[0].item<double>() != static_cast<double>(expected) || !tensor.eq(tensor[0]).all().item<bool>()) {
    throw Error("an all-reduce gave a wrong sum");
  }
  tensor.zero_();  // so that sums of sums stay finite
}

// The host waits until what `tensor` holds is there.
void wait_for(const at::Tensor& tensor) {
  if (!tensor.is_cpu() && tensor.numel() > 0) tensor[0].item();
}

// The limit: the same bytes from one place of the same memory to another.
void copy(const at::Tensor& to, const at::Tensor& from, int64_t bytes) {
  if (to.is_cpu()) {
    std::memcpy(to.mutable_data_ptr(), from.const_data_ptr(), bytes);
  } else {
    to.narrow(0, 0, bytes).copy_(from.narrow(0, 0, bytes));
    wait_for(to);
  }
}

struct Timing {
  std::string op;
  int64_t bytes;
  double ms;

  double gb_per_s() const { return static_cast<double>(bytes) / ms / 1e6; }
};

std::vector<Timing> time_all_reduce(Communicator& communicator, const BenchOptions& options) {
  together(communicator, kWait, [&] { check(options); });
  const at::ScalarType dtype = dtype_named(options.dtype);
  const auto element = static_cast<int64_t>(at::elementSize(dtype));
  const int64_t most = std::ranges::max(options.bytes);
  const at::Tensor reduced = communicator.allocate(most / element, dtype);
  const at::TensorOptions place = at::TensorOptions(communicator.device()).dtype(at::kByte);
  const at::Tensor from = at::full({most}, 1, place), to = at::full({most}, 2, place);  // touched

  std::vector<Timing> timings;
  for (const int64_t bytes : options.bytes) {
    const at::Tensor part = reduced.narrow(0, 0, bytes / element);
    check_sum(communicator, part);
    const auto reduce = [&] {
      communicator.all_reduce(part, Op::kSum, kWait);
      wait_for(part);
    };
    const auto copy_all = [&] { copy(to, from, bytes); };
    timings.push_back({"allreduce", bytes, median_ms(communicator, options.seconds, reduce)});
    timings.push_back({"memcpy", bytes, median_ms(communicator, options.seconds, copy_all)});
  }
  return timings;
}

std::string size_text(int64_t bytes) {
  if (bytes % (1 << 20) == 0) return std::to_string(bytes >> 20) + " MiB";
  if (bytes % (1 << 10) == 0) return std::to_string(bytes >> 10) + " KiB";
  return std::to_string(bytes) + " B";
}

void print_json(const std::vector<Timing>& timings, const std::string& dtype) {
  ordered_json list = ordered_json::array();
  for (const Timing& timing : timings) {
    list.push_back({{"op", timing.op},
                    {"dtype", dtype},
                    {"bytes", timing.bytes},
                    {"ms", timing.ms},
                    {"gb_per_s", timing.gb_per_s()}});
  }
  std::puts(list.dump().c_str());
}

void print_table(const std::vector<Timing>& timings, const std::string& dtype, int world) {
  std::printf("all-reduce of %s in place on %d workers; the limit: all copy as many bytes at once\n",
              dtype.c_str(), world);
  std::printf("%10s %12s %10s %14s\n", "size", "ms", "GB/s", "of the limit");
  for (size_t i = 0; i + 1 < timings.size(); i += 2) {
    const Timing &reduce = timings[i], &copy = timings[i + 1];
    std::printf("%10s %12.4f %10.2f %12.0f %%\n", size_text(reduce.bytes).c_str(), reduce.ms,
                reduce.gb_per_s(), 100 * copy.ms / reduce.ms);
  }
}

// The parent is not read, so a schedule cannot go on from it; how long a step takes does not depend on the
// rate.
Job without_parent(Job job) {
  if (job.warm_start.schedule == CarrySchedule::kReset) return job;
  job.warm_start.schedule = CarrySchedule::kReset;
  const ScheduleOptions options = job.schedule;
  job.schedule = {};
  job.schedule.base_lr = options.base_lr;
  return job;
}

// A path that no file can have, so that whatever tried to write to the run directory would fail.
constexpr char kNoDirectory[] = "/dev/null/bench";

}  // namespace

void bench_all_reduce(Communicator& communicator, const BenchOptions& options) {
  std::vector<Timing> timings = time_all_reduce(communicator, options);
  if (communicator.rank() > 0) return;
  options.json ? print_json(timings, options.dtype)
               : print_table(timings, options.dtype, communicator.world());
}

void bench_step(Communicator& communicator, const Job& whole_job, const BenchOptions& options) {
  const Job job = without_parent(whole_job);
  const double launched = options.launched.value_or(now());
  FileSystem& files = posix_file_system();
  const Dataset data = load_data(communicator, files, job, {});
  const Split split = split_data(communicator, data, job);
  const Trainee trainee = build_model(communicator, job, data, split);
  MetricsLog no_log;
  const Run run{job,           communicator, files,          kNoDirectory,
                data,          split,        *trainee.model, *trainee.parameters,
                trainee.state, no_log};
  Trainer trainer(run, Lineage{}, card_of(job, data.shape(), data.classes()));

  const auto steps_together = [&](int64_t count) {  // when all ranks are done
    trainer.train_steps(count);
    communicator.barrier(kWait);
    return now();
  };
  const double first = steps_together(1) - launched;
  const double start = steps_together(std::max<int64_t>(options.steps / 5, 1));
  const int64_t samples = trainer.progress().samples;
  const double seconds = steps_together(options.steps) - start;
  if (communicator.rank() > 0) return;

  const double ms = 1e3 * seconds / static_cast<double>(options.steps);
  const double rate = static_cast<double>(trainer.progress().samples - samples) / seconds;
  if (options.json) {
    const ordered_json result{{"workers", communicator.world()},
                              {"ms_per_step", ms},
                              {"samples_per_s", rate},
                              {"first_step_s", first}};
    std::puts(result.dump().c_str());
  } else {
    std::printf("%d worker%s: %.3f ms a step, %.0f samples/s; the first step ended %.2f s after the start\n",
                communicator.world(), communicator.world() == 1 ? "" : "s", ms, rate, first);
  }
}

void bench_optimizer(Communicator& communicator, const Job& whole_job, const BenchOptions& options) {
  const Job job = without_parent(whole_job);
  const Dataset data = load_data(communicator, posix_file_system(), job, {});
  const Split split = split_data(communicator, data, job);
  const Trainee trainee = build_model(communicator, job, data, split);
  const SumPlan plan = SumPlan::in_order_of_ranks(communicator.world());
  GradientReducer reducer(communicator, *trainee.parameters, plan);
  const Schedule schedule = schedule_of(job, timeline_of(job, static_cast<int64_t>(split.train.size())));
  const at::Tensor& parameters = trainee.parameters->flat();
  const auto optimizer = Optimizer::create(optimizer_of(job, schedule), trainee.parameters->layout(),
                                           parameters, reducer.gradient(), reducer.slices());
  for (const Range& slice : reducer.slices())
    reducer.gradient().narrow(0, slice.begin, slice.size()).fill_(1e-3f);

  std::vector<double> times;
  for (int64_t step = 0; step < options.steps + options.steps / 5; ++step) {
    communicator.barrier(kWait);
    const double seconds = seconds_of([&] {
      optimizer->start_step({.lr = 1e-6});
      update_together(communicator, *trainee.parameters, reducer.buckets(), *optimizer);
      wait_for(parameters);
    });
    const at::Tensor slowest = at::full({1}, seconds, at::kDouble);
    communicator.host().all_reduce(slowest, Op::kMax, kWait);
    if (step >= options.steps / 5) times.push_back(1e3 * slowest.item<double>());
  }
  if (communicator.rank() > 0) return;
  std::ranges::nth_element(times, times.begin() + static_cast<int64_t>(times.size() / 2));
  const double ms = times[times.size() / 2];
  const int64_t count = trainee.parameters->layout().elements();
  if (options.json) {
    const ordered_json result{{"workers", communicator.world()}, {"parameters", count}, {"ms", ms}};
    std::puts(result.dump().c_str());
  } else {
    std::printf("%d worker%s: %.3f ms to update %lld parameters\n", communicator.world(),
                communicator.world() == 1 ? "" : "s", ms, static_cast<long long>(count));
  }
}

}  // namespace rekindle
