// SPDX-License-Identifier: Apache-2.0
#include "comm/nccl_communicator.h"

#include <ATen/ops/from_blob.h>
#include <ATen/ops/full.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <map>
#include <thread>
#include <utility>
#include <vector>

#include "comm/nccl_sums.h"
#include "core/error.h"
#include "core/log.h"

namespace rekindle {
namespace {

using Clock = std::chrono::steady_clock;

constexpr int kOldestVersion = 21900;  // ncclCommRegister, ncclMemAlloc, ncclCommSplit
constexpr size_t kAlignment = 4096;    // that windows ask for
constexpr const char* kSum = "gradient sum";
constexpr const char* kGather = "all_gather";

std::string version_name(int version) {
  return std::to_string(version / 10000) + "." + std::to_string(version % 10000 / 100) + "." +
         std::to_string(version % 100);
}

std::string host_name() {
  char name[256] = {};
  gethostname(name, sizeof name - 1);
  return name;
}

NcclType type_of(at::ScalarType dtype, const char* name) {
  switch (dtype) {
    case at::kFloat:
      return NcclType::kFloat32;
    case at::kDouble:
      return NcclType::kFloat64;
    case at::kLong:
      return NcclType::kInt64;
    case at::kByte:
      return NcclType::kUint8;
    default:
      throw Error(std::string("'") + name + "': elements of type " + at::toString(dtype) +
                  " are not reduced");
  }
}

std::string seconds(std::chrono::milliseconds time) {
  return std::to_string(time.count() / 1000.0) + " s";
}

std::string where(int rank) {
  return "rank " + std::to_string(rank);
}

}  // namespace

NcclCommunicator::NcclCommunicator(NcclFunctions functions, std::shared_ptr<Communicator> host,
                                   const CommOptions& options, NcclWatch::Lost lost)
    : Communicator(host->rank(), host->world()),
      functions_(std::move(functions)),
      host_(std::move(host)),
      options_(options),
      lost_(std::move(lost)) {
  meet();
  NcclId id;
  together(
      *host_, "NCCL id", [&] { check(functions_.get_unique_id(&id), "ncclGetUniqueId", "start of NCCL"); },
      0);
  at::Tensor bytes = at::from_blob(id.bytes.data(), {static_cast<int64_t>(id.bytes.size())}, at::kByte);
  host_->broadcast(bytes, 0, "NCCL id");
  const NcclResult result = functions_.comm_init_rank(&comm_, world(), id, rank());
  check(result, "ncclCommInitRankConfig", "start of NCCL");
  start();
}

NcclCommunicator::NcclCommunicator(const NcclCommunicator& parent, std::shared_ptr<Communicator> host)
    : Communicator(host->rank(), host->world()),
      functions_(parent.functions_),
      host_(std::move(host)),
      options_(parent.options_),
      lost_(parent.lost_),
      registration_(parent.registration_),
      comm_(parent.child_) {
  poll(comm_, "ncclCommSplit", "split");
  start();
}

NcclCommunicator::~NcclCommunicator() {
  watch_.reset();
}

// Agrees that all ranks can, and that no two of them have the same GPU: NCCL would hang over that.
void NcclCommunicator::meet() {
  std::string card;
  together(*host_, "GPU", [&] {
    int version = 0;
    check(functions_.get_version(&version), "ncclGetVersion", "start of NCCL");
    if (version < kOldestVersion) {
      throw Error("NCCL " + version_name(version) + " is too old",
                  {where(rank()), "2.19 or newer is needed"});
    }
    check_gpu(functions_.set_device(), "cudaSetDevice", "start of NCCL");
    std::string uuid;
    check_gpu(functions_.describe_device(&uuid, &device_name_), "cudaGetDeviceProperties", "start of NCCL");
    device_name_ += ", NCCL " + version_name(version);
    const bool windows = functions_.window_register && functions_.window_deregister;
    card = version_name(version) + (windows ? " with windows" : "") + "\n" + host_name() + " " + uuid;
  });
  std::map<std::string, size_t> owner;
  const auto cards = all_gather_text(*host_, card, "GPUs");
  for (size_t r = 0; r < cards.size(); ++r) {
    const size_t end = cards[r].find('\n');
    if (cards[r].substr(0, end) != cards[0].substr(0, cards[0].find('\n'))) {
      throw AgreedError(Error("rank " + std::to_string(r) + " has NCCL " + cards[r].substr(0, end) +
                                  ", rank 0 " + cards[0].substr(0, cards[0].find('\n')),
                              {where(static_cast<int>(r)), "install the same on every node"}));
    }
    const auto [it, is_new] = owner.emplace(cards[r].substr(end + 1), r);
    if (is_new) continue;
    throw AgreedError(Error("rank " + std::to_string(it->second) + " and rank " + std::to_string(r) +
                                " have the same GPU: " + it->first,
                            {where(static_cast<int>(r)),
                             "one worker a GPU: start fewer on that node, or see CUDA_VISIBLE_DEVICES"}));
  }
  if (!options_.register_memory) return;
  registration_ = functions_.window_register && functions_.window_deregister ? Registration::kWindow
                                                                             : Registration::kBuffer;
}

void NcclCommunicator::start() {
  check_gpu(functions_.make_stream(&stream_), "cudaStreamCreateWithPriority", "start of NCCL");
  check_gpu(functions_.make_event(&before_), "cudaEventCreate", "start of NCCL");
  watch_ = std::make_unique<NcclWatch>(
      functions_, rank(), options_.deadline, [this] { return look(); }, lost_);
}

void NcclCommunicator::close() {
  wait_for_gpu("end of NCCL");
  watch_.reset();
  const Lock lock = enter("end of NCCL");
  const bool windows = registration_ == Registration::kWindow;
  for (const Memory& memory : memory_) {
    if (memory.handle == nullptr) continue;  // NCCL found that it cannot use this one
    check(windows ? functions_.window_deregister(comm_, memory.handle)
                  : functions_.comm_deregister(comm_, memory.handle),
          windows ? "ncclCommWindowDeregister" : "ncclCommDeregister", "end of NCCL");
  }
  check(functions_.comm_finalize(comm_), "ncclCommFinalize", "end of NCCL");
  const NcclResult result = functions_.comm_destroy(std::exchange(comm_, nullptr));
  // What is left of it may go on behind, and there is nothing any more to ask about it.
  if (result != NcclResult::kInProgress) check(result, "ncclCommDestroy", "end of NCCL");
  scratch_.reset();
  for (const Memory& memory : memory_) check(functions_.mem_free(memory.at), "ncclMemFree", "end of NCCL");
  memory_.clear();
  check_gpu(functions_.destroy_event(before_), "cudaEventDestroy", "end of NCCL");
  check_gpu(functions_.destroy_stream(stream_), "cudaStreamDestroy", "end of NCCL");
}

// Every call begins here: one at a time, and with the device set, for the thread may be one of backward's.
NcclCommunicator::Lock NcclCommunicator::enter(const char* name) {
  Lock lock(mutex_);
  ++calls_;
  if (comm_ == nullptr)
    throw Error("'" + std::string(name) + "' came after the end of NCCL", {where(rank()), ""});
  if (watch_) {
    if (const std::optional<Error> failure = watch_->failure()) throw *failure;
  }
  check_gpu(functions_.set_device(), "cudaSetDevice", name);
  return lock;
}

void NcclCommunicator::fail(NcclResult result, const char* call, const char* name) const {
  const std::string last = functions_.last_error(comm_);
  throw Error("'" + std::string(name) + "': " + call + " failed: " + functions_.error_string(result) +
                  (last.empty() ? "" : "; " + last),
              {where(rank()), "NCCL_DEBUG=INFO makes NCCL say more"});
}

void NcclCommunicator::check_gpu(int result, const char* call, const char* name) const {
  if (result == kGpuSuccess) return;
  throw Error("'" + std::string(name) + "': " + call + " failed: " + functions_.gpu_error_string(result),
              {where(rank()), ""});
}

void NcclCommunicator::check(NcclResult result, const char* call, const char* name) {
  if (result == NcclResult::kSuccess) return;
  if (result != NcclResult::kInProgress) fail(result, call, name);
  poll(comm_, call, name);
}

// Until NCCL has done what it does behind: nothing may be put on the stream before.
void NcclCommunicator::poll(NcclComm comm, const char* call, const char* name) {
  const auto start = Clock::now();
  while (true) {
    NcclResult state = NcclResult::kSuccess;
    const NcclResult result = functions_.get_async_error(comm, &state);
    if (result != NcclResult::kSuccess) fail(result, "ncclCommGetAsyncError", name);
    if (state == NcclResult::kSuccess) return;
    if (state != NcclResult::kInProgress) fail(state, call, name);
    const auto waited = Clock::now() - start;
    if (waited > options_.deadline) {
      const std::string last = functions_.last_error(comm);
      throw Error("'" + std::string(name) + "': " + call + " did not end within " +
                      seconds(options_.deadline) + (last.empty() ? "" : "; " + last),
                  {where(rank()),
                   "another worker hangs, is gone or cannot be reached; run.deadline sets how "
                   "long to wait, NCCL_DEBUG=INFO makes NCCL say more"});
    }
    if (waited > std::chrono::microseconds(50)) std::this_thread::sleep_for(std::chrono::microseconds(50));
  }
}

// What NCCL has found out behind our back. For the watch, whose thread this is called on.
std::optional<Error> NcclCommunicator::look() {
  const Lock lock(mutex_, std::try_to_lock);
  if (lock) {
    stuck_since_.reset();
    NcclResult state = NcclResult::kSuccess;
    try {
      const NcclResult result = functions_.get_async_error(comm_, &state);
      if (result != NcclResult::kSuccess) fail(result, "ncclCommGetAsyncError", "watch");
      if (state != NcclResult::kSuccess && state != NcclResult::kInProgress) fail(state, "NCCL", "watch");
    } catch (const Error& error) {
      return error;
    }
    return std::nullopt;
  }
  // A call is on its way. It has its own deadline, unless NCCL does not return from it.
  if (!stuck_since_ || seen_calls_ != calls_) {
    stuck_since_ = Clock::now();
    seen_calls_ = calls_;
  } else if (Clock::now() - *stuck_since_ > 2 * options_.deadline) {
    return Error("a call of NCCL does not return", {where(rank()), "NCCL_DEBUG=INFO makes NCCL say more"});
  }
  return std::nullopt;
}

// Calls that NCCL is to see at once. Until the group's end it only takes note of them, so nothing is polled;
// and the group is ended even if a call failed, for an open one would swallow all that follows.
template <typename Calls>
void NcclCommunicator::in_group(const char* call, const char* name, const Calls& calls) {
  check(functions_.group_start(), "ncclGroupStart", name);
  NcclResult failed = NcclResult::kSuccess;
  calls([&failed](NcclResult result) {
    const bool good = result == NcclResult::kSuccess || result == NcclResult::kInProgress;
    if (!good && failed == NcclResult::kSuccess) failed = result;
  });
  const NcclResult end = functions_.group_end();
  if (failed != NcclResult::kSuccess) fail(failed, call, name);
  check(end, call, name);
}

// Our stream comes after all that the caller's holds by now.
void NcclCommunicator::follow_caller(const at::Tensor& tensor, const char* name) {
  check_gpu(functions_.record_event(before_, functions_.current_stream()), "cudaEventRecord", name);
  check_gpu(functions_.wait_event(stream_, before_), "cudaStreamWaitEvent", name);
  if (functions_.is_on_device(tensor) && !is_ours(tensor)) functions_.record_stream(tensor, stream_);
  started_ = true;
}

void NcclCommunicator::join(const char* name) {
  host_->join(name);
  GpuEvent event = nullptr;
  {
    const Lock lock = enter(name);
    if (!started_) return;
    if (const std::optional<GpuEvent> done = watch_->take_done()) {
      event = *done;
    } else {
      check_gpu(functions_.make_event(&event), "cudaEventCreate", name);
    }
    check_gpu(functions_.record_event(event, stream_), "cudaEventRecord", name);
    watch_->add(event, name);
    started_ = false;
  }
  check_gpu(functions_.wait_event(functions_.current_stream(), event), "cudaStreamWaitEvent", name);
}

// The host itself waits for all that was started.
void NcclCommunicator::wait_for_gpu(const char* name) {
  join(name);
  GpuEvent event = nullptr;
  {
    const Lock lock = enter(name);
    check_gpu(functions_.make_event(&event), "cudaEventCreate", name);
    check_gpu(functions_.record_event(event, stream_), "cudaEventRecord", name);
  }
  const auto start = Clock::now();
  while (true) {
    const int result = functions_.query_event(event);
    if (result == kGpuSuccess) break;
    if (result != kGpuNotReady) check_gpu(result, "cudaEventQuery", name);
    if (const std::optional<Error> failure = watch_->failure()) throw *failure;
    if (Clock::now() - start > options_.deadline) {
      throw Error("'" + std::string(name) + "' did not end on the GPU within " + seconds(options_.deadline),
                  {where(rank()), "another worker hangs or is gone; run.deadline sets how long to wait"});
    }
    std::this_thread::sleep_for(std::chrono::microseconds(50));
  }
  check_gpu(functions_.destroy_event(event), "cudaEventDestroy", name);
}

NcclCommunicator::Memory& NcclCommunicator::take_memory(size_t bytes, const char* name) {
  Memory memory;
  memory.bytes = (std::max<size_t>(bytes, 1) + kAlignment - 1) / kAlignment * kAlignment;
  check(functions_.mem_alloc(&memory.at, memory.bytes), "ncclMemAlloc", name);
  return memory_.emplace_back(memory);
}

// Collective, in the same order on all ranks.
void NcclCommunicator::register_memory(Memory& memory, const char* name) {
  if (registration_ == Registration::kWindow) {
    check(functions_.window_register(comm_, memory.at, memory.bytes, &memory.handle),
          "ncclCommWindowRegister", name);
  } else if (registration_ == Registration::kBuffer) {
    check(functions_.comm_register(comm_, memory.at, memory.bytes, &memory.handle), "ncclCommRegister", name);
  }
}

bool NcclCommunicator::is_ours(const at::Tensor& tensor) const {
  const auto* at = static_cast<const std::byte*>(tensor.const_data_ptr());
  return std::any_of(memory_.begin(), memory_.end(), [at](const Memory& memory) {
    const auto* begin = static_cast<const std::byte*>(memory.at);
    return at >= begin && at < begin + memory.bytes;
  });
}

at::Tensor NcclCommunicator::wrap(const Memory& memory, int64_t numel, at::ScalarType dtype) const {
  return at::for_blob(memory.at, {numel})
      .options(at::TensorOptions().dtype(dtype).device(device()))
      .target_device(device())
      .make_tensor();
}

at::Tensor NcclCommunicator::allocate(int64_t numel, at::ScalarType dtype) {
  const char* name = "allocate";
  const size_t bytes = static_cast<size_t>(numel) * at::elementSize(dtype);
  check_same(*host_, std::to_string(bytes), "size of an allocation",
             "the model must be the same on all ranks");
  Memory* memory = nullptr;
  together(*host_, "GPU memory", [&] {
    const Lock lock = enter(name);
    memory = &take_memory(bytes, name);
  });
  const Lock lock = enter(name);
  register_memory(*memory, name);
  check_gpu(functions_.zero(memory->at, memory->bytes, functions_.current_stream()), "cudaMemsetAsync", name);
  return wrap(*memory, numel, dtype);
}

// Memory for what is on its way, used by our stream alone. It grows without asking the others, on whatever
// thread: they do the same at the same place.
at::Tensor NcclCommunicator::scratch(int64_t numel) {
  if (!scratch_.defined() || scratch_.numel() < numel) {
    Memory& memory = take_memory(static_cast<size_t>(numel) * sizeof(float), "memory for sums");
    register_memory(memory, "memory for sums");
    scratch_ = wrap(memory, numel, at::kFloat);
  }
  return scratch_.narrow(0, 0, numel);
}

void NcclCommunicator::all_reduce(at::Tensor tensor, Op op, const char* name) {
  if (!functions_.is_on_device(tensor)) return host_->all_reduce(tensor, op, name);
  if (!tensor.is_contiguous()) throw Error("'" + std::string(name) + "' needs a contiguous tensor");
  if (tensor.numel() == 0) return;
  at::Tensor values = tensor;
  if (tensor.scalar_type() == at::kHalf || tensor.scalar_type() == at::kBFloat16) {
    join(name);  // for the scratch memory may be in use
    {
      const Lock lock = enter(name);
      values = scratch(tensor.numel());
    }
    values.copy_(tensor);
  }
  const NcclType type = type_of(values.scalar_type(), name);
  {
    const Lock lock = enter(name);
    follow_caller(values, name);
    check(functions_.all_reduce(values.data_ptr(), values.data_ptr(), values.numel(), type,
                                op == Op::kSum ? NcclOp::kSum : NcclOp::kMax, comm_, stream_),
          "ncclAllReduce", name);
  }
  join(name);
  if (!values.is_same(tensor)) tensor.copy_(values);
}

void NcclCommunicator::broadcast(at::Tensor tensor, int root, const char* name) {
  if (!functions_.is_on_device(tensor)) return host_->broadcast(tensor, root, name);
  if (!tensor.is_contiguous()) throw Error("'" + std::string(name) + "' needs a contiguous tensor");
  if (tensor.numel() == 0) return;
  {
    const Lock lock = enter(name);
    follow_caller(tensor, name);
    check(functions_.broadcast(tensor.data_ptr(), tensor.data_ptr(), tensor.nbytes(), NcclType::kUint8, root,
                               comm_, stream_),
          "ncclBroadcast", name);
  }
  join(name);
}

void NcclCommunicator::reduce_scatter(at::Tensor parts, Range range, const SumPlan& plan,
                                      at::Tensor squares) {
  if (range.empty()) return;
  const Lock lock = enter(kSum);
  if (!is_ours(parts) || parts.scalar_type() != at::kFloat || !parts.is_contiguous()) {
    throw Error("reduce_scatter takes float32 memory from allocate()", {where(rank()), ""});
  }
  follow_caller(squares, kSum);
  if (plan.is_tree()) {
    sum_by_plan(parts, range, plan);
  } else {
    sum_by_nccl(parts.data_ptr<float>(), range);
  }
  const Range mine = FlatLayout::slice(range, rank(), world());
  if (mine.empty()) return;
  const at::Tensor values = parts.select(0, 0).narrow(0, mine.begin, mine.size());
  const at::Tensor of_blocks = squares.narrow(0, mine.begin / kBlock, mine.size() / kBlock);
  functions_.run_on(stream_, [values, of_blocks] { sum_squares(values, of_blocks); });
}

// In whatever order NCCL adds: the same in every run on the same machines, another one on others.
void NcclCommunicator::sum_by_nccl(float* values, Range range) {
  const Range mine = FlatLayout::slice(range, rank(), world());
  if (range.size() % (world() * kBlock) == 0) {  // equal slices
    check(functions_.reduce_scatter(values + range.begin, values + mine.begin, mine.size(),
                                    NcclType::kFloat32, NcclOp::kSum, comm_, stream_),
          "ncclReduceScatter", kSum);
    return;
  }
  in_group("ncclReduce", kSum, [&](const auto& note) {
    for (int root = 0; root < world(); ++root) {
      const Range slice = FlatLayout::slice(range, root, world());
      if (slice.empty()) continue;
      float* at = values + slice.begin;
      note(functions_.reduce(at, at, slice.size(), NcclType::kFloat32, NcclOp::kSum, root, comm_, stream_));
    }
  });
}

// Every rank sends the parts of a slice to its owner, which adds them as the plan has it.
void NcclCommunicator::sum_by_plan(const at::Tensor& parts, Range range, const SumPlan& plan) {
  const Range mine = FlatLayout::slice(range, rank(), world());
  int64_t sources = 0, longest = 0;
  for (int r = 0; r < world(); ++r) {
    sources += static_cast<int64_t>(plan.parts(r).size());
    longest = std::max(longest, FlatLayout::slice(range, r, world()).size());
  }
  const at::Tensor received = scratch(sources * longest);  // as much on every rank
  std::vector<at::Tensor> terms;                           // of my slice, by rank, then part
  for (int r = 0; r < world(); ++r) {
    for (size_t part = 0; part < plan.parts(r).size(); ++part) {
      const auto row = static_cast<int64_t>(part), place = static_cast<int64_t>(terms.size()) * mine.size();
      terms.push_back(r == rank() ? parts.select(0, row).narrow(0, mine.begin, mine.size())
                                  : received.narrow(0, place, mine.size()));
    }
  }
  in_group("ncclSend and ncclRecv", kSum, [&](const auto& note) {
    size_t term = 0;
    for (int r = 0; r < world(); ++r) {
      const Range theirs = FlatLayout::slice(range, r, world());
      for (size_t row = 0; r != rank() && !theirs.empty() && row < plan.parts(rank()).size(); ++row) {
        const float* from = parts.select(0, static_cast<int64_t>(row)).const_data_ptr<float>() + theirs.begin;
        note(functions_.send(from, theirs.size(), NcclType::kFloat32, r, comm_, stream_));
      }
      for (size_t part = 0; part < plan.parts(r).size(); ++part, ++term) {
        if (r == rank() || mine.empty()) continue;
        note(functions_.recv(terms[term].data_ptr(), mine.size(), NcclType::kFloat32, r, comm_, stream_));
      }
    }
  });
  if (mine.empty()) return;
  const at::Tensor sum = parts.select(0, 0).narrow(0, mine.begin, mine.size());
  functions_.run_on(stream_, [order = plan.order(), terms, sum] { sum_along(order, terms, sum); });
}

void NcclCommunicator::all_gather(at::Tensor tensor, Range range, int64_t unit) {
  if (range.empty()) return;
  const Lock lock = enter(kGather);
  if (!is_ours(tensor) || !tensor.is_contiguous()) {
    throw Error("all_gather takes memory from allocate() or allocate_shared()", {where(rank()), ""});
  }
  follow_caller(tensor, kGather);
  auto* at = static_cast<std::byte*>(tensor.data_ptr());
  const int64_t size = tensor.element_size();
  const Range mine = FlatLayout::slice(range, rank(), world(), unit);
  if (range.size() % (world() * unit) == 0) {  // equal slices
    check(functions_.all_gather(at + mine.begin * size, at + range.begin * size, mine.size() * size,
                                NcclType::kUint8, comm_, stream_),
          "ncclAllGather", kGather);
    return;
  }
  in_group("ncclBroadcast", kGather, [&](const auto& note) {
    for (int root = 0; root < world(); ++root) {
      const Range slice = FlatLayout::slice(range, root, world(), unit);
      if (slice.empty()) continue;
      std::byte* from = at + slice.begin * size;
      note(functions_.broadcast(from, from, slice.size() * size, NcclType::kUint8, root, comm_, stream_));
    }
  });
}

std::unique_ptr<Communicator> NcclCommunicator::split(int group) {
  if (group < 0) throw Error("a group has no number below 0", {where(rank()), ""});
  wait_for_gpu("split");
  std::shared_ptr<Communicator> host = host_->split(group);
  host_->barrier("split");  // NCCL wants nothing on its way on any rank
  const Lock lock = enter("split");
  check(functions_.comm_split(comm_, group, rank(), &child_), "ncclCommSplit", "split");
  return std::unique_ptr<Communicator>(new NcclCommunicator(*this, std::move(host)));
}

// The other ranks' waits for the host end. What is on the GPU is left as it is: to abort it takes all ranks,
// and one of them is in trouble.
void NcclCommunicator::abort() noexcept {
  host_->abort();
  try {
    const std::string waits = watch_ ? watch_->outstanding() : "";
    if (!waits.empty()) log_warning("leaving while the GPU still waits for " + waits);
  } catch (...) {  // a log that cannot be written is not worth more trouble
  }
}

int choose_gpu(Communicator& host, int place, int gpus) {
  at::Tensor most = at::full({1}, gpus, at::kLong);
  host.all_reduce(most, Communicator::Op::kMax, "GPUs");
  if (most.item<int64_t>() == 0) return -1;
  together(host, "GPUs", [&] {
    if (gpus == 1 || place < gpus) return;
    throw Error(host_name() + " has " + std::to_string(gpus) + " GPUs for more workers",
                {where(host.rank()), "start one worker a GPU; CUDA_VISIBLE_DEVICES= hides them all"});
  });
  return gpus == 1 ? 0 : place;
}

}  // namespace rekindle
