// SPDX-License-Identifier: Apache-2.0
#include "fake_nccl.h"

#include <ATen/ops/from_blob.h>

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <cstring>
#include <deque>
#include <map>
#include <mutex>
#include <optional>
#include <stdexcept>
#include <thread>
#include <utility>

namespace rekindle {
namespace {

constexpr auto kLongest = std::chrono::seconds(20);  // a test hangs no longer

struct Stream;
struct Comm;

// The place in a stream up to which all must be done.
struct Event {
  Stream* stream = nullptr;  // null: not recorded yet, or of the caller's stream, and so come already
  uint64_t place = 0;
  uint64_t epoch = 0;  // of the caller, where it is of the caller's stream
};

struct Call {
  std::string name;
  const std::byte* from = nullptr;
  std::byte* to = nullptr;
  size_t count = 0;
  NcclType type = NcclType::kUint8;
  NcclOp op = NcclOp::kSum;
  int peer = -1;  // or root
  Stream* stream = nullptr;

  bool is_to_peer() const { return name == "ncclSend" || name == "ncclRecv"; }
  std::string text() const {
    return name + " of " + std::to_string(count) + " of type " + std::to_string(static_cast<int>(type)) +
           ", op " + std::to_string(static_cast<int>(op)) + ", root " + std::to_string(peer);
  }
};
using Calls = std::vector<Call>;

struct Task {
  std::function<void()> work;  // of the host's ATen
  std::optional<Event> event;  // to wait for
  Comm* comm = nullptr;        // whose next collective this is
  uint64_t index = 0;
};

struct Stream {
  int rank = 0;
  uint64_t epoch = 0;  // of the caller that it has waited for
  uint64_t done = 0;   // tasks
  std::deque<Task> tasks;
  bool busy = false;

  uint64_t end() const { return done + tasks.size(); }
};

struct Registered {
  const std::byte* at;
  size_t bytes;
  bool is_window;
};

// Those that belong together.
struct Group {
  std::vector<Comm*> members;
  std::map<std::string, std::vector<uint64_t>> arrivals;  // by what is done together, by member
  std::map<uint64_t, size_t> window_bytes;                // of the n-th window
  std::map<std::pair<uint64_t, int>, std::vector<std::pair<int, Comm*>>>
      splits;  // by turn and color: key, child
  bool broken = false;
};

struct Pending {
  int polls = 0;
  bool for_ever = false;
  std::function<bool()> ready;
  std::function<void()> then;
};

struct Comm {
  std::shared_ptr<Group> group;
  int rank = 0, device = 0;  // `device` is the rank in the world
  std::optional<Pending> pending;
  NcclResult error = NcclResult::kSuccess;
  bool finalized = false, gone = false;
  std::map<uint64_t, std::pair<Calls, uint64_t>> queued;  // by index: the calls and their place in the stream
  uint64_t queued_so_far = 0;
  std::deque<Registered> registered;
  Stream* stream = nullptr;

  int world() const { return static_cast<int>(group->members.size()); }
};

struct Block {
  std::vector<std::byte> room;
  std::byte* at = nullptr;
  size_t bytes = 0;
  bool is_cached = false, is_recorded = false;
};

struct Fault {
  std::string call;
  int k;
  NcclResult result;
  bool hangs = false;
};

struct Rank {
  uint64_t epoch = 1;
  int version = 22809;
  std::string uuid;
  size_t memory = size_t{1} << 40;
  std::vector<Fault> faults;
  std::map<std::string, int> counts;
  std::vector<std::string> calls, registrations;
  std::deque<Block> blocks;
  std::optional<Error> released;
};

struct OpenGroup {
  Comm* comm = nullptr;
  Calls calls;
};

size_t size_of(NcclType type) {
  if (type == NcclType::kUint8) return 1;
  return type == NcclType::kFloat32 ? 4 : 8;
}

template <typename T>
void add(std::byte* to, const std::byte* from, size_t count, NcclOp op) {
  T* sum = reinterpret_cast<T*>(to);
  const T* term = reinterpret_cast<const T*>(from);
  for (size_t i = 0; i < count; ++i) {
    sum[i] = op == NcclOp::kSum ? static_cast<T>(sum[i] + term[i]) : std::max(sum[i], term[i]);
  }
}

void add(NcclType type, std::byte* to, const std::byte* from, size_t count, NcclOp op) {
  switch (type) {
    case NcclType::kUint8:
      return add<uint8_t>(to, from, count, op);
    case NcclType::kInt64:
      return add<int64_t>(to, from, count, op);
    case NcclType::kFloat32:
      return add<float>(to, from, count, op);
    case NcclType::kFloat64:
      return add<double>(to, from, count, op);
  }
}

}  // namespace

struct FakeNccl::State {
  mutable std::mutex mutex;
  std::condition_variable changed;
  bool has_windows = true;
  int polls = 2, calls_so_far = 0;
  std::deque<Rank> ranks;
  std::deque<Comm> comms;
  std::deque<Stream> streams;
  std::deque<Event> events;
  std::deque<Stream> callers;  // by rank: only an address
  std::map<std::thread::id, int> devices;
  std::map<std::thread::id, OpenGroup> open;
  std::map<std::string, std::shared_ptr<Group>> by_id;
  int ids = 0;
  std::vector<std::string> complaints;

  using Lock = std::unique_lock<std::mutex>;

  NcclResult complain(const std::string& text) {
    complaints.push_back(text);
    return NcclResult::kInvalidUsage;
  }
  static std::string of(int rank) { return " (rank " + std::to_string(rank) + ")"; }

  // Counts the call. What is to go wrong with it, if anything.
  const Fault* note(int rank, const std::string& call) {
    const int k = ++ranks[rank].counts[call];
    for (const Fault& fault : ranks[rank].faults) {
      if (fault.call == call && fault.k == k) return &fault;
    }
    return nullptr;
  }

  bool has_device(int rank) const {
    const auto it = devices.find(std::this_thread::get_id());
    return it != devices.end() && it->second == rank;
  }

  // What every call of NCCL begins with. Nothing: it may go on.
  std::optional<NcclResult> begin(int rank, Comm* comm, const std::string& call) {
    ranks[rank].calls.push_back(call);
    const Fault* fault = note(rank, call);
    if (!has_device(rank)) return complain(call + " without the device set" + of(rank));
    if (comm != nullptr) {
      if (comm->gone) return complain(call + " on a communicator that is gone" + of(rank));
      if (comm->finalized && call != "ncclCommDestroy") {
        return complain(call + " on a communicator that was finalized" + of(rank));
      }
      if (comm->pending) return complain(call + " while the communicator is in progress" + of(rank));
      if (comm->error != NcclResult::kSuccess) return comm->error;
    }
    if (fault == nullptr) return std::nullopt;
    if (fault->hangs) {
      if (comm != nullptr) comm->pending = Pending{0, true, {}, {}};
      return NcclResult::kInProgress;
    }
    if (comm != nullptr) comm->error = fault->result;
    return fault->result;
  }

  // What goes on behind: `then` is done once `ready`, now or when polled.
  NcclResult go_on(Comm* comm, std::function<bool()> ready, std::function<void()> then) {
    const int left = ++calls_so_far % 3 == 0 ? 0 : polls;  // some calls end at once, as they do
    changed.notify_all();
    if (left == 0 && ready()) {
      then();
      return NcclResult::kSuccess;
    }
    comm->pending = Pending{left, false, std::move(ready), std::move(then)};
    return NcclResult::kInProgress;
  }

  // Whether all members have come as often as this one, which has come now.
  std::function<bool()> meet(Comm* comm, const std::string& what) {
    std::vector<uint64_t>& arrivals = comm->group->arrivals[what];
    arrivals.resize(comm->group->members.size());
    const uint64_t mine = ++arrivals[comm->rank];
    return [&arrivals, mine] {
      return std::all_of(arrivals.begin(), arrivals.end(),
                         [mine](uint64_t theirs) { return theirs >= mine; });
    };
  }

  NcclResult poll(int rank, Comm* comm, NcclResult* error) {
    if (const Fault* fault = note(rank, "ncclCommGetAsyncError")) return fault->result;
    if (comm->gone) return complain("ncclCommGetAsyncError on a communicator that is gone" + of(rank));
    if (open.contains(std::this_thread::get_id())) return complain("polled inside a group" + of(rank));
    *error = comm->error;
    if (comm->error != NcclResult::kSuccess || !comm->pending) return NcclResult::kSuccess;
    *error = NcclResult::kInProgress;
    Pending& pending = *comm->pending;
    if (pending.for_ever || --pending.polls > 0 || !pending.ready()) return NcclResult::kSuccess;
    const std::function<void()> then = std::move(pending.then);
    comm->pending.reset();
    then();
    *error = comm->error;
    return NcclResult::kSuccess;
  }

  NcclResult init(int rank, NcclComm* out, int world, const NcclId& id, int in_group) {
    comms.push_back({});
    Comm* comm = &comms.back();
    *out = reinterpret_cast<NcclComm>(comm);
    comm->device = rank;
    comm->rank = in_group;
    const std::string key(id.bytes.begin(), id.bytes.end());
    if (!by_id.contains(key)) {
      by_id[key] = std::make_shared<Group>();
      by_id[key]->members.resize(world);
    }
    comm->group = by_id[key];
    if (const auto result = begin(rank, comm, "ncclCommInitRankConfig")) return *result;
    if (comm->world() != world) return complain("ranks differ in the size of the world" + of(rank));
    if (comm->group->members[in_group] != nullptr) return complain("two ranks are one" + of(rank));
    comm->group->members[in_group] = comm;
    return go_on(comm, meet(comm, "init"), [] {});
  }

  NcclResult split(int rank, Comm* comm, int color, int key, NcclComm* out) {
    if (const auto result = begin(rank, comm, "ncclCommSplit")) return *result;
    for (const Comm* member : comm->group->members) {
      if (member->stream != nullptr && !member->stream->tasks.empty()) {
        return complain("ncclCommSplit with work on its way" + of(rank));
      }
    }
    comms.push_back({});
    Comm* child = &comms.back();
    child->device = rank;
    const auto ready = meet(comm, "split");
    const auto turn = std::make_pair(comm->group->arrivals["split"][comm->rank], color);
    comm->group->splits[turn].push_back({key, child});
    return go_on(comm, ready, [this, comm, child, turn, out] {
      auto& family = comm->group->splits[turn];
      std::sort(family.begin(), family.end());
      if (family.front().second->group == nullptr) {
        const auto group = std::make_shared<Group>();
        for (size_t r = 0; r < family.size(); ++r) {
          group->members.push_back(family[r].second);
          family[r].second->group = group;
          family[r].second->rank = static_cast<int>(r);
        }
      }
      *out = reinterpret_cast<NcclComm>(child);
    });
  }

  NcclResult finalize(int rank, Comm* comm) {
    if (const auto result = begin(rank, comm, "ncclCommFinalize")) return *result;
    if (comm->stream != nullptr && !comm->stream->tasks.empty()) {
      return complain("the end of a communicator with work on its way" + of(rank));
    }
    if (!comm->registered.empty()) return complain("the end of a communicator that has memory" + of(rank));
    return go_on(comm, meet(comm, "finalize"), [comm] { comm->finalized = true; });
  }

  NcclResult destroy(int rank, Comm* comm) {
    if (const auto result = begin(rank, comm, "ncclCommDestroy")) return *result;
    if (!comm->finalized) return complain("ncclCommDestroy, which then waits for others" + of(rank));
    comm->gone = true;
    return NcclResult::kSuccess;
  }

  NcclResult allocate(int rank, void** memory, size_t bytes) {
    if (const auto result = begin(rank, nullptr, "ncclMemAlloc")) return *result;
    if (in_use(rank) + bytes > ranks[rank].memory) return NcclResult::kUnhandledCudaError;
    *memory = make_block(rank, bytes, false).at;
    return NcclResult::kSuccess;
  }

  size_t in_use(int rank) const {
    size_t bytes = 0;
    for (const Block& block : ranks[rank].blocks) bytes += block.is_cached ? 0 : block.bytes;
    return bytes;
  }

  Block& make_block(int rank, size_t bytes, bool is_cached) {
    Block& block = ranks[rank].blocks.emplace_back();
    block.room.assign(bytes + 4096, std::byte{0xab});  // not zero
    block.bytes = bytes;
    block.is_cached = is_cached;
    const auto address = reinterpret_cast<uintptr_t>(block.room.data());
    block.at = block.room.data() + (4096 - address % 4096);
    return block;
  }

  Block* find(int rank, const void* memory, size_t bytes) {
    const auto* at = static_cast<const std::byte*>(memory);
    for (Block& block : ranks[rank].blocks) {
      if (at >= block.at && at + bytes <= block.at + block.bytes) return &block;
    }
    return nullptr;
  }

  NcclResult free(int rank, void* memory) {
    if (const auto result = begin(rank, nullptr, "ncclMemFree")) return *result;
    for (const Comm& comm : comms) {
      for (const Registered& registered : comm.registered) {
        if (registered.at == memory) return complain("ncclMemFree of memory that is registered" + of(rank));
      }
    }
    auto& blocks = ranks[rank].blocks;
    const auto it =
        std::find_if(blocks.begin(), blocks.end(), [&](const Block& b) { return b.at == memory; });
    if (it == blocks.end()) return complain("ncclMemFree of other memory" + of(rank));
    blocks.erase(it);
    return NcclResult::kSuccess;
  }

  NcclResult enrol(int rank, Comm* comm, void* memory, size_t bytes, void** handle, bool is_window) {
    const std::string name = is_window ? "ncclCommWindowRegister" : "ncclCommRegister";
    if (const auto result = begin(rank, comm, name)) return *result;
    const Block* block = find(rank, memory, bytes);
    if (block == nullptr || block->is_cached || block->at != memory) {
      return complain(name + " of memory that is not of ncclMemAlloc" + of(rank));
    }
    ranks[rank].registrations.push_back(name + " " + std::to_string(bytes));
    const auto enter = [comm, memory, bytes, is_window, handle] {
      comm->registered.push_back({static_cast<const std::byte*>(memory), bytes, is_window});
      *handle = &comm->registered.back();
    };
    if (!is_window) {  // NCCL does this at once, on this rank alone
      enter();
      return NcclResult::kSuccess;
    }
    const auto ready = meet(comm, "window");
    const uint64_t turn = comm->group->arrivals["window"][comm->rank];
    const auto [it, is_first] = comm->group->window_bytes.emplace(turn, bytes);
    if (!is_first && it->second != bytes) {
      for (Comm* member : comm->group->members) member->error = NcclResult::kInvalidArgument;
      return complain("windows are registered in another order on another rank" + of(rank));
    }
    return go_on(comm, ready, enter);
  }

  NcclResult strike(int rank, Comm* comm, void* handle, bool is_window) {
    const std::string name = is_window ? "ncclCommWindowDeregister" : "ncclCommDeregister";
    if (const auto result = begin(rank, comm, name)) return *result;
    if (comm->stream != nullptr && !comm->stream->tasks.empty()) {
      return complain(name + " with work on its way" + of(rank));
    }
    for (auto it = comm->registered.begin(); it != comm->registered.end(); ++it) {
      if (&*it != handle) continue;
      if (it->is_window != is_window) return complain(name + " of the other kind" + of(rank));
      it->at = nullptr;  // the others keep their place
      const bool all = std::all_of(comm->registered.begin(), comm->registered.end(),
                                   [](const Registered& r) { return r.at == nullptr; });
      if (all) comm->registered.clear();
      return NcclResult::kSuccess;
    }
    return complain(name + " of what is not registered" + of(rank));
  }

  NcclResult group_start(int rank) {
    if (const auto result = begin(rank, nullptr, "ncclGroupStart")) return *result;
    if (!open.emplace(std::this_thread::get_id(), OpenGroup{}).second) {
      return complain("a group in a group" + of(rank));
    }
    return NcclResult::kSuccess;
  }

  NcclResult group_end(int rank) {
    const auto it = open.find(std::this_thread::get_id());
    if (it == open.end()) return complain("ncclGroupEnd without a group" + of(rank));
    const OpenGroup group = std::move(it->second);
    open.erase(it);
    if (const auto result = begin(rank, group.comm, "ncclGroupEnd")) return *result;
    return group.calls.empty() ? NcclResult::kSuccess : launch(rank, group.comm, group.calls);
  }

  NcclResult submit(int rank, Comm* comm, Call call) {
    if (const auto result = begin(rank, comm, call.name)) return *result;
    if (const auto result = check_memory(rank, comm, call)) return *result;
    if (comm->stream != nullptr && comm->stream != call.stream) return complain("two streams" + of(rank));
    comm->stream = call.stream;
    if (call.stream->epoch != ranks[rank].epoch) {
      return complain(call.name + ": its stream does not wait for what the caller did before" + of(rank));
    }
    const auto it = open.find(std::this_thread::get_id());
    if (it == open.end()) return launch(rank, comm, {std::move(call)});
    if (it->second.comm != nullptr && it->second.comm != comm) return complain("a group of two" + of(rank));
    it->second.comm = comm;
    it->second.calls.push_back(std::move(call));
    return NcclResult::kSuccess;
  }

  std::optional<NcclResult> check_memory(int rank, Comm* comm, const Call& call) {
    const size_t bytes = call.count * size_of(call.type), all = bytes * comm->world();
    const bool gathers = call.name == "ncclAllGather", scatters = call.name == "ncclReduceScatter";
    for (const auto& [memory, size] : {std::pair<const void*, size_t>{call.from, scatters ? all : bytes},
                                       std::pair<const void*, size_t>{call.to, gathers ? all : bytes}}) {
      if (memory == nullptr) continue;
      Block* block = find(rank, memory, size);
      if (block == nullptr) return complain(call.name + " of memory that is not of this GPU" + of(rank));
      if (block->is_cached && !block->is_recorded) {
        return complain(call.name + " of memory that record_stream was not told of" + of(rank));
      }
    }
    const auto* part = (gathers ? call.to : call.from) + bytes * comm->rank;
    const bool in_place =
        call.from == call.to || (gathers && call.from == part) || (scatters && call.to == part);
    const bool apart =
        call.to + (gathers ? all : bytes) <= call.from || call.from + (scatters ? all : bytes) <= call.to;
    if (call.from != nullptr && call.to != nullptr && !in_place && !apart) {
      return complain(call.name + " overlaps itself" + of(rank));
    }
    return std::nullopt;
  }

  // They are on the stream once nothing is in progress any more.
  NcclResult launch(int, Comm* comm, Calls calls) {
    return go_on(
        comm, [] { return true; },
        [this, comm, calls = std::move(calls)] {
          Stream* stream = comm->stream;
          const uint64_t index = comm->queued_so_far++;
          comm->queued[index] = {calls, stream->end()};
          stream->tasks.push_back({{}, {}, comm, index});
          changed.notify_all();
        });
  }

  // Nobody may use a stream that NCCL is still about to put something on.
  bool check_idle(const Stream* stream, const std::string& what) {
    for (const Comm& comm : comms) {
      if (comm.stream != stream || !comm.pending || comm.pending->for_ever) continue;
      complain(what + " on a stream that NCCL has not ended with" + of(stream->rank));
      return false;
    }
    return true;
  }

  // Does what the stream holds up to `place`; false where that needs what other ranks have not put there yet.
  bool advance(Stream& stream, uint64_t place) {
    if (stream.busy) return false;
    stream.busy = true;
    bool good = true;
    while (good && stream.done < place) {
      const Task task = stream.tasks.front();
      if (task.comm != nullptr) {
        good = perform(*task.comm->group, task.index);
        continue;
      }
      if (task.event) good = task.event->stream == nullptr || advance(*task.event->stream, task.event->place);
      if (!good) break;
      if (task.work) task.work();
      pop(stream);
    }
    stream.busy = false;
    return good;
  }

  void pop(Stream& stream) {
    stream.tasks.pop_front();
    ++stream.done;
  }

  // The collective with that number, of all ranks at once.
  bool perform(Group& group, uint64_t index) {
    if (group.broken) return false;
    std::vector<const Calls*> calls;
    for (Comm* member : group.members) {
      if (member == nullptr) return false;
      const auto it = member->queued.find(index);
      if (it == member->queued.end()) return false;
      const uint64_t place = it->second.second;
      if (member->stream->done < place && !advance(*member->stream, place)) return false;
      calls.push_back(&it->second.first);
    }
    if (!check_alike(group, calls)) {
      group.broken = true;
      for (Comm* member : group.members) member->error = NcclResult::kInvalidUsage;
      return false;
    }
    for (size_t i = 0; i < most_collectives(calls); ++i) move(calls, i);
    move_to_peers(group, calls);
    for (Comm* member : group.members) {
      pop(*member->stream);
      member->queued.erase(index);
    }
    return true;
  }

  static size_t most_collectives(const std::vector<const Calls*>& calls) {
    return calls[0]->empty() || calls[0]->front().is_to_peer() ? 0 : calls[0]->size();
  }

  bool check_alike(Group& group, const std::vector<const Calls*>& calls) {
    for (size_t r = 1; r < calls.size(); ++r) {
      if (calls[r]->front().is_to_peer() && calls[0]->front().is_to_peer()) continue;
      const size_t most = std::max(calls[r]->size(), calls[0]->size());
      for (size_t i = 0; i < most; ++i) {
        const std::string mine = i < calls[r]->size() ? (*calls[r])[i].text() : "nothing";
        const std::string theirs = i < calls[0]->size() ? (*calls[0])[i].text() : "nothing";
        if (mine == theirs && place_of(group, r, (*calls[r])[i]) == place_of(group, 0, (*calls[0])[i]))
          continue;
        complain("rank " + std::to_string(r) + " does " + mine + " in memory " +
                 (mine == "nothing" ? "" : place_of(group, r, (*calls[r])[i])) + ", rank 0 " + theirs +
                 " in memory " + (theirs == "nothing" ? "" : place_of(group, 0, (*calls[0])[i])));
        return false;
      }
    }
    return true;
  }

  // Which registration, and where in it: the same on all ranks, for NCCL reads and writes there.
  static std::string place_of(const Group& group, size_t member, const Call& call) {
    const std::byte* at = call.name == "ncclAllGather" ? call.to : call.from;
    const auto& registered = group.members[member]->registered;
    for (size_t i = 0; i < registered.size(); ++i) {
      if (registered[i].at == nullptr || at < registered[i].at ||
          at >= registered[i].at + registered[i].bytes)
        continue;
      return std::to_string(i) + "+" + std::to_string(at - registered[i].at);
    }
    return "that is not registered";
  }

  static void move(const std::vector<const Calls*>& calls, size_t i) {
    const Call& first = (*calls[0])[i];
    const size_t bytes = first.count * size_of(first.type), world = calls.size();
    const auto of_rank = [&](size_t r) -> const Call& { return (*calls[r])[i]; };
    std::vector<std::byte> result;
    if (first.name == "ncclAllGather") {
      for (size_t r = 0; r < world; ++r)
        result.insert(result.end(), of_rank(r).from, of_rank(r).from + bytes);
    } else if (first.name == "ncclBroadcast") {
      result.assign(of_rank(first.peer).from, of_rank(first.peer).from + bytes);
    } else {
      const size_t times = first.name == "ncclReduceScatter" ? world : 1;
      result.assign(first.from, first.from + bytes * times);
      for (size_t r = 1; r < world; ++r) {
        add(first.type, result.data(), of_rank(r).from, first.count * times, first.op);
      }
    }
    for (size_t r = 0; r < world; ++r) {
      const Call& call = of_rank(r);
      if (first.name == "ncclReduce" && static_cast<int>(r) != first.peer) continue;
      const size_t begin = first.name == "ncclReduceScatter" ? bytes * r : 0;
      const size_t size = first.name == "ncclReduceScatter" ? bytes : result.size();
      std::memcpy(call.to, result.data() + begin, size);
    }
  }

  void move_to_peers(Group& group, const std::vector<const Calls*>& calls) {
    const int world = static_cast<int>(calls.size());
    const auto select = [&](int r, const std::string& name, int peer) {
      std::vector<const Call*> selected;
      for (const Call& call : *calls[r]) {
        if (call.name == name && call.peer == peer) selected.push_back(&call);
      }
      return selected;
    };
    for (int from = 0; from < world; ++from) {
      for (int to = 0; to < world; ++to) {
        const auto sends = select(from, "ncclSend", to), receives = select(to, "ncclRecv", from);
        bool alike = sends.size() == receives.size();
        for (size_t i = 0; alike && i < sends.size(); ++i) {
          const bool known = place_of(group, to, {"", receives[i]->to}) != "that is not registered";
          alike = sends[i]->count == receives[i]->count && sends[i]->type == receives[i]->type &&
                  known == (place_of(group, from, *sends[i]) != "that is not registered");
          if (alike) std::memcpy(receives[i]->to, sends[i]->from, sends[i]->count * size_of(sends[i]->type));
        }
        if (alike) continue;
        complain("what rank " + std::to_string(from) + " sends to rank " + std::to_string(to) +
                 " is not what that receives");
        for (Comm* member : group.members) member->error = NcclResult::kInvalidUsage;
      }
    }
  }

  // A call of CUDA's. Nothing: it may go on.
  std::optional<int> begin_gpu(int rank, const std::string& call) {
    if (const Fault* fault = note(rank, call)) return static_cast<int>(fault->result) + 700;
    if (has_device(rank)) return std::nullopt;
    complain(call + " without the device set" + of(rank));
    return 1;
  }

  int record(int rank, Event* event, Stream* stream) {
    if (const auto error = begin_gpu(rank, "cudaEventRecord")) return *error;
    if (stream == &callers[rank]) {
      *event = {nullptr, 0, ranks[rank].epoch};
      return kGpuSuccess;
    }
    if (!check_idle(stream, "cudaEventRecord")) return 1;
    *event = {stream, stream->end(), 0};
    return kGpuSuccess;
  }

  int wait(Lock& lock, int rank, Stream* stream, Event* event) {
    if (const auto error = begin_gpu(rank, "cudaStreamWaitEvent")) return *error;
    if (stream != &callers[rank]) {
      if (!check_idle(stream, "cudaStreamWaitEvent")) return 1;
      stream->epoch = std::max(stream->epoch, event->epoch);
      stream->tasks.push_back({{}, *event, nullptr, 0});
      return kGpuSuccess;
    }
    const Event upto = *event;
    const auto start = std::chrono::steady_clock::now();
    while (upto.stream != nullptr && !advance(*upto.stream, upto.place)) {
      if (ranks[rank].released) throw *ranks[rank].released;
      if (std::chrono::steady_clock::now() - start > kLongest) {
        complain("hung in CUDA" + of(rank));
        return 1;
      }
      changed.wait_for(lock, std::chrono::milliseconds(5));
    }
    changed.notify_all();
    return kGpuSuccess;
  }

  int query(int rank, const Event* event) {
    if (const Fault* fault = note(rank, "cudaEventQuery")) return static_cast<int>(fault->result) + 700;
    return event->stream == nullptr || event->stream->done >= event->place ? kGpuSuccess : kGpuNotReady;
  }

  void run_on(int rank, Stream* stream, std::function<void()> work) {
    if (!has_device(rank)) complain("a kernel without the device set" + of(rank));
    if (stream->epoch != ranks[rank].epoch) complain("a kernel that does not wait for the caller" + of(rank));
    if (check_idle(stream, "a kernel")) stream->tasks.push_back({std::move(work), {}, nullptr, 0});
  }
};

FakeNccl::FakeNccl(int world) : state_(std::make_unique<State>()) {
  for (int r = 0; r < world; ++r) {
    state_->ranks.emplace_back().uuid = "gpu-" + std::to_string(r);
    state_->callers.emplace_back().rank = r;
  }
}

FakeNccl::~FakeNccl() = default;

NcclFunctions FakeNccl::functions(int rank) {
  State* state = state_.get();
  const auto comm_of = [](NcclComm comm) { return reinterpret_cast<Comm*>(comm); };
  const auto stream_of = [](GpuStream stream) { return reinterpret_cast<Stream*>(stream); };
  const auto event_of = [](GpuEvent event) { return reinterpret_cast<Event*>(event); };
  // Every call is made under the lock.
  const auto locked = [state](auto body) {
    return [state, body](auto... arguments) {
      const State::Lock lock(state->mutex);
      return body(*state, arguments...);
    };
  };

  NcclFunctions table;
  table.is_on_device = locked([rank](State& s, const at::Tensor& tensor) {
    return s.find(rank, tensor.const_data_ptr(), tensor.nbytes()) != nullptr;
  });
  table.get_version = locked([rank](State& s, int* version) {
    const Fault* fault = s.note(rank, "ncclGetVersion");
    *version = s.ranks[rank].version;
    return fault ? fault->result : NcclResult::kSuccess;
  });
  table.get_unique_id = locked([rank](State& s, NcclId* id) {
    if (const auto result = s.begin(rank, nullptr, "ncclGetUniqueId")) return *result;
    id->bytes.fill('i');
    id->bytes[0] = static_cast<char>('a' + s.ids++);
    return NcclResult::kSuccess;
  });
  table.comm_init_rank = locked([rank](State& s, NcclComm* comm, int world, NcclId id, int in_group) {
    return s.init(rank, comm, world, id, in_group);
  });
  table.comm_split = locked([=](State& s, NcclComm comm, int color, int key, NcclComm* child) {
    return s.split(rank, comm_of(comm), color, key, child);
  });
  table.comm_finalize = locked([=](State& s, NcclComm comm) { return s.finalize(rank, comm_of(comm)); });
  table.comm_destroy = locked([=](State& s, NcclComm comm) { return s.destroy(rank, comm_of(comm)); });
  table.get_async_error =
      locked([=](State& s, NcclComm comm, NcclResult* error) { return s.poll(rank, comm_of(comm), error); });
  table.error_string = [](NcclResult result) { return "result " + std::to_string(static_cast<int>(result)); };
  table.last_error = locked([](State& s, NcclComm) {
    return s.complaints.empty() ? std::string() : "refused: " + s.complaints.front();
  });

  table.mem_alloc =
      locked([rank](State& s, void** memory, size_t bytes) { return s.allocate(rank, memory, bytes); });
  table.mem_free = locked([rank](State& s, void* memory) { return s.free(rank, memory); });
  table.comm_register = locked([=](State& s, NcclComm comm, void* memory, size_t bytes, void** handle) {
    return s.enrol(rank, comm_of(comm), memory, bytes, handle, false);
  });
  table.comm_deregister = locked(
      [=](State& s, NcclComm comm, void* handle) { return s.strike(rank, comm_of(comm), handle, false); });
  table.window_register = locked([=](State& s, NcclComm comm, void* memory, size_t bytes, void** handle) {
    return s.enrol(rank, comm_of(comm), memory, bytes, handle, true);
  });
  table.window_deregister = locked(
      [=](State& s, NcclComm comm, void* handle) { return s.strike(rank, comm_of(comm), handle, true); });

  const auto bytes_of = [](const void* memory) { return static_cast<const std::byte*>(memory); };
  const auto room_of = [](void* memory) { return static_cast<std::byte*>(memory); };
  const auto collective = [=](const char* name) {
    return locked([=](State& s, const void* from, void* to, size_t count, NcclType type, NcclOp op,
                      NcclComm comm, GpuStream stream) {
      return s.submit(rank, comm_of(comm),
                      {name, bytes_of(from), room_of(to), count, type, op, -1, stream_of(stream)});
    });
  };
  table.group_start = locked([rank](State& s) { return s.group_start(rank); });
  table.group_end = locked([rank](State& s) { return s.group_end(rank); });
  table.all_reduce = collective("ncclAllReduce");
  table.reduce_scatter = collective("ncclReduceScatter");
  table.reduce = locked([=](State& s, const void* from, void* to, size_t count, NcclType type, NcclOp op,
                            int root, NcclComm comm, GpuStream stream) {
    return s.submit(rank, comm_of(comm),
                    {"ncclReduce", bytes_of(from), room_of(to), count, type, op, root, stream_of(stream)});
  });
  table.broadcast = locked([=](State& s, const void* from, void* to, size_t count, NcclType type, int root,
                               NcclComm comm, GpuStream stream) {
    return s.submit(
        rank, comm_of(comm),
        {"ncclBroadcast", bytes_of(from), room_of(to), count, type, NcclOp::kSum, root, stream_of(stream)});
  });
  table.all_gather = locked([=](State& s, const void* from, void* to, size_t count, NcclType type,
                                NcclComm comm, GpuStream stream) {
    return s.submit(
        rank, comm_of(comm),
        {"ncclAllGather", bytes_of(from), room_of(to), count, type, NcclOp::kSum, -1, stream_of(stream)});
  });
  table.send = locked([=](State& s, const void* from, size_t count, NcclType type, int peer, NcclComm comm,
                          GpuStream stream) {
    return s.submit(
        rank, comm_of(comm),
        {"ncclSend", bytes_of(from), nullptr, count, type, NcclOp::kSum, peer, stream_of(stream)});
  });
  table.recv = locked([=](State& s, void* to, size_t count, NcclType type, int peer, NcclComm comm,
                          GpuStream stream) {
    return s.submit(rank, comm_of(comm),
                    {"ncclRecv", nullptr, room_of(to), count, type, NcclOp::kSum, peer, stream_of(stream)});
  });

  if (!state->has_windows) {
    table.window_register = nullptr;
    table.window_deregister = nullptr;
  }

  table.gpu_error_string = [](int error) { return "error " + std::to_string(error); };
  table.set_device = locked([rank](State& s) {
    if (s.note(rank, "cudaSetDevice") != nullptr) return 101;
    s.devices[std::this_thread::get_id()] = rank;
    return kGpuSuccess;
  });
  table.describe_device = locked([rank](State& s, std::string* uuid, std::string* name) {
    *uuid = s.ranks[rank].uuid;
    *name = "a GPU of threads";
    return s.begin_gpu(rank, "cudaGetDeviceProperties").value_or(kGpuSuccess);
  });
  table.make_stream = locked([rank](State& s, GpuStream* stream) {
    s.streams.emplace_back().rank = rank;
    *stream = reinterpret_cast<GpuStream>(&s.streams.back());
    return s.begin_gpu(rank, "cudaStreamCreateWithPriority").value_or(kGpuSuccess);
  });
  table.destroy_stream = locked(
      [rank](State& s, GpuStream) { return s.begin_gpu(rank, "cudaStreamDestroy").value_or(kGpuSuccess); });
  table.make_event = locked([rank](State& s, GpuEvent* event) {
    *event = reinterpret_cast<GpuEvent>(&s.events.emplace_back());
    return s.begin_gpu(rank, "cudaEventCreate").value_or(kGpuSuccess);
  });
  table.destroy_event = [](GpuEvent) { return kGpuSuccess; };
  table.record_event = locked([=](State& s, GpuEvent event, GpuStream stream) {
    return s.record(rank, event_of(event), stream_of(stream));
  });
  table.wait_event = [=](GpuStream stream, GpuEvent event) {
    State::Lock lock(state->mutex);
    return state->wait(lock, rank, stream_of(stream), event_of(event));
  };
  table.query_event = locked([=](State& s, GpuEvent event) { return s.query(rank, event_of(event)); });
  table.zero = locked([rank](State& s, void* memory, size_t bytes, GpuStream) {
    if (const auto error = s.begin_gpu(rank, "cudaMemsetAsync")) return *error;
    std::memset(memory, 0, bytes);
    return kGpuSuccess;
  });
  table.current_stream = [state, rank] { return reinterpret_cast<GpuStream>(&state->callers[rank]); };
  table.record_stream = locked([rank](State& s, const at::Tensor& tensor, GpuStream) {
    if (Block* block = s.find(rank, tensor.const_data_ptr(), tensor.nbytes())) block->is_recorded = true;
  });
  table.run_on = locked([=](State& s, GpuStream stream, std::function<void()> work) {
    s.run_on(rank, stream_of(stream), std::move(work));
  });
  return table;
}

void FakeNccl::set_version(int rank, int version) {
  state_->ranks[rank].version = version;
}
void FakeNccl::set_uuid(int rank, const std::string& uuid) {
  state_->ranks[rank].uuid = uuid;
}
void FakeNccl::set_memory(int rank, size_t bytes) {
  state_->ranks[rank].memory = bytes;
}
void FakeNccl::set_windows(bool has_windows) {
  state_->has_windows = has_windows;
}
void FakeNccl::set_polls(int polls) {
  state_->polls = polls;
}

void FakeNccl::fail(int rank, const std::string& call, int k, NcclResult result) {
  state_->ranks[rank].faults.push_back({call, k, result});
}
void FakeNccl::fail_gpu(int rank, const std::string& call, int k) {
  state_->ranks[rank].faults.push_back({call, k, NcclResult::kUnhandledCudaError});
}
void FakeNccl::hang(int rank, const std::string& call, int k) {
  state_->ranks[rank].faults.push_back({call, k, NcclResult::kInProgress, true});
}

void FakeNccl::report(int rank, NcclResult error) {
  const State::Lock lock(state_->mutex);
  for (Comm& comm : state_->comms) {
    if (comm.device == rank) comm.error = error;
  }
}

void FakeNccl::caller_ran(int rank) {
  const State::Lock lock(state_->mutex);
  ++state_->ranks[rank].epoch;
  state_->devices.erase(std::this_thread::get_id());
  if (state_->open.contains(std::this_thread::get_id()))
    state_->complain("a group was left open" + State::of(rank));
}

void FakeNccl::release(int rank, const Error& error) {
  const State::Lock lock(state_->mutex);
  state_->ranks[rank].released = error;
  state_->changed.notify_all();
}

at::Tensor FakeNccl::cached_tensor(int rank, int64_t numel, at::ScalarType dtype) {
  const State::Lock lock(state_->mutex);
  std::byte* memory = state_->make_block(rank, numel * at::elementSize(dtype), true).at;
  return at::from_blob(memory, {numel}, at::TensorOptions().dtype(dtype));
}

std::vector<std::string> FakeNccl::complaints() const {
  const State::Lock lock(state_->mutex);
  return state_->complaints;
}
std::vector<std::string> FakeNccl::calls(int rank) const {
  const State::Lock lock(state_->mutex);
  return state_->ranks[rank].calls;
}
std::vector<std::string> FakeNccl::registrations(int rank) const {
  const State::Lock lock(state_->mutex);
  return state_->ranks[rank].registrations;
}
size_t FakeNccl::memory_in_use(int rank) const {
  const State::Lock lock(state_->mutex);
  return state_->in_use(rank);
}

}  // namespace rekindle
