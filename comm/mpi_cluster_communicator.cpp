// SPDX-License-Identifier: Apache-2.0
#include "comm/mpi_cluster_communicator.h"

#include <algorithm>
#include <cstring>
#include <map>
#include <string>
#include <utility>

#include "comm/mpi_calls.h"
#include "comm/mpi_node_communicator.h"
#include "comm/mpi_watch.h"
#include "comm/sum.h"
#include "core/squares.h"

namespace rekindle {
namespace {

constexpr int64_t kStaging = 1 << 20;         // bytes of a rank that go through an all-reduce at once
constexpr int64_t kShare = 1024;              // elements: less is not worth a message of its own
constexpr size_t kBroadcastChunk = 16 << 20;  // bytes
constexpr size_t kMostStarted = SharedGroup::kMostOutstanding / 2;

// Tags tell calls of different kinds and sizes apart: ranks that disagree about what comes next wait for each
// other until the deadline and take nothing for what it is not. MPI keeps the order of equal ones.
enum class Kind { kSum, kGather, kReduce, kResult, kArrive, kLeave };

int tag_of(Kind kind, int64_t count = 0, int64_t place = 0, uint64_t turn = 0) {
  const uint64_t mixed =
      ((static_cast<uint64_t>(count) * 0x9e3779b97f4a7c15u) ^ static_cast<uint64_t>(place)) *
          0xc2b2ae3d27d4eb4fu +
      (turn << 53);
  return static_cast<int>(mixed >> 53) << 4 | static_cast<int>(kind);  // 15 bits, which every MPI has
}

}  // namespace

MpiClusterCommunicator::MpiClusterCommunicator(MPI_Comm comm, std::unique_ptr<NodeCommunicator> node,
                                               std::shared_ptr<MpiMessages> messages)
    : Communicator(rank_in(comm), size_of(comm)),
      comm_(comm),
      node_(std::move(node)),
      messages_(std::move(messages)) {
  meet_nodes();
  staged_ = allocate(kStaging, at::kByte);
  result_ = allocate_shared(kStaging, at::kByte);
}

MpiClusterCommunicator::~MpiClusterCommunicator() {
  if (messages_->idle()) return;
  // Something failed, and messages are still on their way: MPI may write to where they were to go for as long
  // as it is called, so that memory is left to the end of the process.
  static_cast<void>(node_.release());
  static_cast<void>(new std::deque<Reducing>(std::move(reducing_)));
  static_cast<void>(new std::vector<std::byte>(std::move(received_)));
}

// Learns which ranks are where. A node is known by its first rank.
void MpiClusterCommunicator::meet_nodes() {
  const auto lock = messages_->lock();
  MPI_Comm_set_errhandler(comm_, MPI_ERRORS_RETURN);
  at::Tensor first = node_->allocate(1, at::kLong);
  *first.data_ptr<int64_t>() = rank();
  node_->broadcast(first, 0, "nodes");
  const SharedGroup& group = node_->group();
  const int mine[2] = {static_cast<int>(*first.data_ptr<int64_t>()), group.setting().names[group.rank()]};
  std::vector<int> all(2 * world());
  check_mpi(MPI_Allgather(mine, 2, MPI_INT, all.data(), 2, MPI_INT, comm_), "MPI_Allgather");

  std::map<int, int> index;
  for (int r = 0; r < world(); ++r) {
    const auto [found, is_new] = index.try_emplace(all[2 * r], nodes());
    names_.push_back(all[2 * r + 1]);
    if (is_new) nodes_.emplace_back();
    node_of_.push_back(found->second);
    local_of_.push_back(static_cast<int>(nodes_[found->second].size()));
    nodes_[found->second].push_back(r);
  }
  const int colour = local_of_[rank()] == 0 ? 0 : MPI_UNDEFINED;
  check_mpi(MPI_Comm_split(comm_, colour, rank(), &leaders_), "MPI_Comm_split");
  if (leaders_ != MPI_COMM_NULL) MPI_Comm_set_errhandler(leaders_, MPI_ERRORS_RETURN);
}

int MpiClusterCommunicator::namesake(int owner, int node) const {
  return nodes_[node][local_of_[owner] % nodes_[node].size()];
}

std::string MpiClusterCommunicator::called(int rank) const {
  return "rank " + std::to_string(names_[rank]);
}

MpiMessages::Ticket MpiClusterCommunicator::send(const void* data, size_t bytes, int peer, int tag) {
  return messages_->send(data, bytes, peer, tag, comm_, called(peer));
}

MpiMessages::Ticket MpiClusterCommunicator::receive(void* data, size_t bytes, int peer, int tag) {
  return messages_->receive(data, bytes, peer, tag, comm_, called(peer));
}

at::Tensor MpiClusterCommunicator::allocate(int64_t numel, at::ScalarType dtype) {
  join("allocate");  // for messages stand still while this rank maps memory, which calls MPI
  const auto lock = messages_->lock();
  return node_->allocate(numel, dtype);
}

at::Tensor MpiClusterCommunicator::allocate_shared(int64_t numel, at::ScalarType dtype) {
  join("allocate");
  const auto lock = messages_->lock();
  return node_->allocate_shared(numel, dtype);
}

void MpiClusterCommunicator::all_reduce(at::Tensor tensor, Op op, const char* name) {
  const Element element = element_of(tensor, name);
  if (element == Element::kBfloat16 || element == Element::kFloat16) {
    at::Tensor wide = tensor.to(at::kFloat);  // rounded once, at the end
    all_reduce(wide, op, name);
    tensor.copy_(wide);
    return;
  }
  const int64_t chunk = kStaging / rekindle::size_of(element);
  const Reduction reduction = op == Op::kSum ? Reduction::kSum : Reduction::kMax;
  auto* values = static_cast<std::byte*>(tensor.data_ptr());
  for (int64_t begin = 0; begin < std::max<int64_t>(tensor.numel(), 1); begin += chunk) {
    reduce_chunk(values + begin * rekindle::size_of(element), element, reduction,
                 std::min(chunk, tensor.numel() - begin), name);
  }
}

// Every rank owns a share: its namesakes combine what their nodes give, it combines these in the order of the
// nodes, and they bring the result to their nodes. A few elements are all the last rank's.
void MpiClusterCommunicator::reduce_chunk(std::byte* values, Element element, Reduction reduction,
                                          int64_t count, const char* name) {
  const int64_t size = rekindle::size_of(element);
  const auto cut = [&](int r) { return r == world() ? count : count * r / world() / kShare * kShare; };
  const auto bytes_of = [&](int r) { return static_cast<size_t>((cut(r + 1) - cut(r)) * size); };
  const int up = tag_of(Kind::kReduce, count, static_cast<int64_t>(element));
  const int down = tag_of(Kind::kResult, count, static_cast<int64_t>(element));
  const NodeCommunicator::Region staged = node_->place_of(staged_, name).address;
  auto* result = static_cast<std::byte*>(result_.data_ptr());
  auto* mine = static_cast<std::byte*>(staged_.data_ptr());
  SharedGroup& group = node_->group();

  if (count > 0) std::memcpy(mine, values, count * size);
  group.wait(group.post('S', static_cast<int>(element), count), name);
  Tickets results, sends;
  for (int owner = 0; owner < world(); ++owner) {
    if (!is_namesake(owner) || bytes_of(owner) == 0) continue;
    std::vector<const std::byte*> sources;
    for (std::byte* rank : staged) sources.push_back(rank + cut(owner) * size);
    std::byte* const partial = mine + cut(owner) * size;  // nobody else reads this share
    combine(element, reduction, sources, {&partial, 1}, cut(owner + 1) - cut(owner));
    if (node_of_[owner] == node_of_[rank()]) continue;
    sends.push_back(send(partial, bytes_of(owner), owner, up));
    results.push_back(receive(result + cut(owner) * size, bytes_of(owner), owner, down));
  }
  if (bytes_of(rank()) > 0) {
    received_.resize(std::max(received_.size(), nodes() * bytes_of(rank())));
    Tickets partials;
    std::vector<const std::byte*> sources;
    for (int node = 0; node < nodes(); ++node) {
      std::byte* theirs = received_.data() + node * bytes_of(rank());
      const bool here = node == node_of_[rank()];
      sources.push_back(here ? mine + cut(rank()) * size : theirs);
      if (!here) partials.push_back(receive(theirs, bytes_of(rank()), namesake(rank(), node), up));
    }
    messages_->wait(partials, name);
    std::byte* const share = result + cut(rank()) * size;
    combine(element, reduction, sources, {&share, 1}, cut(rank() + 1) - cut(rank()));
    for (int node = 0; node < nodes(); ++node) {
      if (node != node_of_[rank()])
        sends.push_back(send(share, bytes_of(rank()), namesake(rank(), node), down));
    }
  }
  messages_->wait(results, name);
  messages_->wait(sends, name);
  group.wait(group.post('s', static_cast<int>(element), count), name);
  // The next chunk's first wait keeps `result` until all have read it.
  if (count > 0) std::memcpy(values, result, count * size);
}

void MpiClusterCommunicator::reduce_scatter(at::Tensor parts, Range range, const SumPlan& plan,
                                            at::Tensor squares) {
  const NodeCommunicator::Place place = node_->place_of(parts, "reduce_scatter");
  if (place.one_for_all || parts.scalar_type() != at::kFloat) {
    throw Error("reduce_scatter takes float32 memory from allocate()");
  }
  if (reducing_.size() >= kMostStarted) join("reduce_scatter");
  const uint64_t operation =
      node_->group().post('G', static_cast<int>(at::kFloat), range.size(), place.id + range.begin);
  const int tag = tag_of(Kind::kSum, range.size(), place.id + range.begin, started_++);
  Reducing& reducing = reducing_.emplace_back(operation, tag, range, parts.size(1), place.address,
                                              squares.data_ptr<double>(), NodeSums(plan, nodes_));

  // What the other nodes make of this rank's slice.
  const Range mine = FlatLayout::slice(range, rank(), world());
  if (!mine.empty()) {
    for (int node = 0; node < nodes(); ++node) {
      if (node == node_of_[rank()]) continue;
      for (size_t i = 0; i < reducing.sums.of(node).size(); ++i) {
        reducing.received.push_back(take_buffer(mine.size()));
        reducing.receives.push_back(receive(reducing.received.back().data(), mine.size() * sizeof(float),
                                            namesake(rank(), node), reducing.tag));
      }
    }
  }
  progress();
  messages_->leave_to_helper();
}

// Adds what this node's ranks handed in of the slices that this rank reads, each sum where its first part
// lies, and sends it to the owner.
void MpiClusterCommunicator::add_within_node(Reducing& reducing) {
  for (int owner = 0; owner < world(); ++owner) {
    const Range slice = FlatLayout::slice(reducing.range, owner, world());
    if (!is_namesake(owner) || slice.empty()) continue;
    for (const NodeSum& sum : reducing.sums.of(node_of_[rank()])) {
      std::vector<const float*> sources;
      for (const NodeSum::Part& part : sum.parts) sources.push_back(reducing.at(part, slice.begin));
      float* result = reducing.at(sum.parts.front(), slice.begin);
      rekindle::sum(result, sources, sum.order, slice.size());
      if (node_of_[owner] == node_of_[rank()]) continue;
      reducing.sends.push_back(send(result, slice.size() * sizeof(float), owner, reducing.tag));
    }
  }
  reducing.added_within_node = true;
}

// Adds what all nodes made of this rank's slice.
void MpiClusterCommunicator::add_over_nodes(Reducing& reducing) {
  reducing.added_over_nodes = true;
  const Range slice = FlatLayout::slice(reducing.range, rank(), world());
  if (slice.empty()) return;
  std::vector<const float*> sums;
  size_t next = 0;
  for (int node = 0; node < nodes(); ++node) {
    for (const NodeSum& sum : reducing.sums.of(node)) {
      const bool here = node == node_of_[rank()];
      sums.push_back(here ? reducing.at(sum.parts.front(), slice.begin) : reducing.received[next++].data());
    }
  }
  std::vector<const float*> sources(sums.size());
  for (int64_t at = 0; at < slice.size(); at += kBlock) {
    for (size_t s = 0; s < sums.size(); ++s) sources[s] = sums[s] + at;
    float* result = reducing.at({local_of_[rank()], 0}, slice.begin + at);
    rekindle::sum(result, sources, reducing.sums.order(), kBlock);
    reducing.squares[(slice.begin + at) / kBlock] = sum_of_squares(result, kBlock);
  }
  for (Buffer& buffer : reducing.received) spare_.push_back(std::move(buffer));
  reducing.received.clear();
}

// Of the steps before, so that no page has to be touched for the first time.
MpiClusterCommunicator::Buffer MpiClusterCommunicator::take_buffer(int64_t count) {
  const auto fits = [&](const Buffer& buffer) { return static_cast<int64_t>(buffer.size()) == count; };
  const auto found = std::find_if(spare_.begin(), spare_.end(), fits);
  if (found == spare_.end()) return Buffer(count);
  Buffer buffer = std::move(*found);
  spare_.erase(found);
  return buffer;
}

// What can be done without waiting. Called while backward goes on.
void MpiClusterCommunicator::progress() {
  for (Reducing& reducing : reducing_) {
    if (reducing.added_within_node) continue;
    if (!node_->group().complete(reducing.operation)) break;
    add_within_node(reducing);
  }
  for (Reducing& reducing : reducing_) {
    const auto done = [&](const MpiMessages::Ticket& ticket) { return messages_->done(ticket); };
    const bool all_here = std::all_of(reducing.receives.begin(), reducing.receives.end(), done);
    if (!reducing.added_within_node || !all_here) break;
    if (!reducing.added_over_nodes) add_over_nodes(reducing);
  }
}

void MpiClusterCommunicator::all_gather(at::Tensor tensor, Range range, int64_t unit) {
  NodeCommunicator::Place place = node_->place_of(tensor, "all_gather");
  if (gathering_.size() >= kMostStarted) join("all_gather");
  Tickets messages;
  auto* values = static_cast<std::byte*>(tensor.data_ptr());
  const int64_t size = tensor.element_size();
  const int tag = tag_of(Kind::kGather, range.size(), place.id + range.begin, started_++);
  for (int owner = 0; owner < world(); ++owner) {
    const Range slice = FlatLayout::slice(range, owner, world(), unit);
    if (slice.empty()) continue;
    std::byte* at = values + slice.begin * size;
    const size_t bytes = slice.size() * size;
    if (owner == rank()) {
      for (int node = 0; node < nodes(); ++node) {
        if (node != node_of_[rank()]) messages.push_back(send(at, bytes, namesake(rank(), node), tag));
      }
    } else if (node_of_[owner] != node_of_[rank()] && is_namesake(owner)) {
      messages.push_back(receive(at, bytes, owner, tag));
    }
  }
  gathering_.push_back({tensor, std::move(place), range, unit, std::move(messages)});
  messages_->leave_to_helper();
}

void MpiClusterCommunicator::join(const char* name) {
  for (Reducing& reducing : reducing_) {
    if (reducing.added_within_node) continue;
    node_->group().wait(reducing.operation, name);
    add_within_node(reducing);
  }
  for (; !reducing_.empty(); reducing_.pop_front()) {
    messages_->wait(reducing_.front().receives, name);
    if (!reducing_.front().added_over_nodes) add_over_nodes(reducing_.front());
    messages_->wait(reducing_.front().sends, name);
  }
  if (!gathering_.empty()) finish_gatherings(name);
}

void MpiClusterCommunicator::finish_gatherings(const char* name) {
  SharedGroup& group = node_->group();
  uint64_t operation = 0;
  for (const Gathering& gathering : gathering_) {
    messages_->wait(gathering.messages, name);
    operation = group.post('P', static_cast<int>(gathering.tensor.scalar_type()), gathering.range.size(),
                           gathering.place.id + gathering.range.begin);
  }
  group.wait(operation, name);  // and with it those before
  bool copied = false;
  for (const Gathering& gathering : gathering_) {
    if (gathering.place.one_for_all) continue;
    fetch(gathering);
    copied = true;
  }
  gathering_.clear();
  if (copied) node_->barrier(name);  // nobody writes what another still fetches
}

// Copies the others' slices to here from whoever has them on this node.
void MpiClusterCommunicator::fetch(const Gathering& gathering) const {
  const int64_t size = gathering.tensor.element_size();
  const int here = node_of_[rank()];
  for (int owner = 0; owner < world(); ++owner) {
    const Range slice = FlatLayout::slice(gathering.range, owner, world(), gathering.unit);
    const int holder = node_of_[owner] == here ? owner : namesake(owner, here);
    if (holder == rank() || slice.empty()) continue;
    const auto& address = gathering.place.address;
    std::memcpy(address[local_of_[rank()]] + slice.begin * size,
                address[local_of_[holder]] + slice.begin * size, slice.size() * size);
  }
}

void MpiClusterCommunicator::broadcast(at::Tensor tensor, int root, const char* name) {
  const bool here = node_of_[root] == node_of_[rank()];
  if (here) node_->broadcast(tensor, local_of_[root], name);
  auto* values = static_cast<std::byte*>(tensor.data_ptr());
  for (size_t begin = 0; leaders_ != MPI_COMM_NULL && begin < tensor.nbytes(); begin += kBroadcastChunk) {
    const int count = static_cast<int>(std::min(kBroadcastChunk, tensor.nbytes() - begin));
    const auto call = [&](MPI_Request* request) {
      return MPI_Ibcast(values + begin, count, MPI_BYTE, node_of_[root], leaders_, request);
    };
    messages_->wait({messages_->start(call, called(root))}, name);
  }
  if (!here) node_->broadcast(tensor, 0, name);
}

// By messages to the first node's first rank and back, so that it is known who did not come.
void MpiClusterCommunicator::barrier(const char* name) {
  node_->barrier(name);
  if (leaders_ != MPI_COMM_NULL) {
    const int arrive = tag_of(Kind::kArrive), leave = tag_of(Kind::kLeave);
    Tickets arrivals, departures;
    if (rank() == nodes_[0][0]) {
      for (int node = 1; node < nodes(); ++node)
        arrivals.push_back(receive(nullptr, 0, nodes_[node][0], arrive));
      messages_->wait(arrivals, name);
      for (int node = 1; node < nodes(); ++node)
        departures.push_back(send(nullptr, 0, nodes_[node][0], leave));
    } else {
      arrivals.push_back(send(nullptr, 0, nodes_[0][0], arrive));
      departures.push_back(receive(nullptr, 0, nodes_[0][0], leave));
    }
    messages_->wait(arrivals, name);
    messages_->wait(departures, name);
  }
  node_->barrier(name);
}

std::unique_ptr<Communicator> MpiClusterCommunicator::split(int group) {
  const std::vector<int> members = members_of_group(*this, group);
  const auto is_here = [&](int member) { return node_of_[member] == node_of_[rank()]; };
  const bool one_node = std::all_of(members.begin(), members.end(), is_here);
  join("split");
  auto lock = messages_->lock();
  const MpiWatch watch(names_[rank()], "split", node_->group().setting().deadline);
  std::unique_ptr<NodeCommunicator> node = node_->split_node(group);
  MPI_Comm comm;
  const int colour = one_node ? MPI_UNDEFINED : members.front();
  check_mpi(MPI_Comm_split(comm_, colour, rank(), &comm), "MPI_Comm_split");
  lock.unlock();
  if (one_node) return node;
  return std::make_unique<MpiClusterCommunicator>(comm, std::move(node), messages_);
}

}  // namespace rekindle
