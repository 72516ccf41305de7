// SPDX-License-Identifier: Apache-2.0
#include "comm/mpi_messages.h"

#include <algorithm>
#include <utility>

#include "comm/mpi_calls.h"

namespace rekindle {
namespace {

using Clock = std::chrono::steady_clock;

constexpr size_t kMost = 1 << 30;                       // bytes of one call: MPI counts with an int
constexpr auto kEager = std::chrono::microseconds(50);  // at first, for the peer may be near
constexpr auto kSleep = std::chrono::microseconds(50);  // then, for the peer may need the processor

}  // namespace

struct MpiMessages::Message {
  std::string who;
  size_t bytes = 0;  // to be received; 0: not known or not of interest
  int left = 0;      // requests that are still on their way
  std::string error;
  std::atomic<bool> done = false;
};

MpiMessages::MpiMessages(std::string where, std::chrono::milliseconds deadline, bool helper)
    : where_(std::move(where)), deadline_(deadline), may_help_(helper) {}

MpiMessages::~MpiMessages() {
  {
    const std::lock_guard lock(mutex_);
    ending_ = true;
  }
  wake_.notify_one();
  if (helper_.joinable()) helper_.join();
}

MpiMessages::Ticket MpiMessages::start(const std::function<int(MPI_Request*)>& call, std::string who) {
  auto message = std::make_shared<Message>();
  message->who = std::move(who);
  message->left = 1;
  const std::lock_guard lock(mutex_);
  MPI_Request request;
  check_mpi(call(&request), "MPI");
  requests_.push_back(request);
  messages_.push_back(message);
  return message;
}

MpiMessages::Ticket MpiMessages::send(const void* data, size_t bytes, int peer, int tag, MPI_Comm comm,
                                      std::string who) {
  auto message = std::make_shared<Message>();
  message->who = std::move(who);
  const std::lock_guard lock(mutex_);
  for (size_t at = 0; at < std::max<size_t>(bytes, 1); at += kMost) {
    MPI_Request request;
    check_mpi(MPI_Isend(static_cast<const std::byte*>(data) + at,
                        static_cast<int>(std::min(kMost, bytes - at)), MPI_BYTE, peer, tag, comm, &request),
              "MPI_Isend");
    ++message->left;
    requests_.push_back(request);
    messages_.push_back(message);
  }
  return message;
}

MpiMessages::Ticket MpiMessages::receive(void* data, size_t bytes, int peer, int tag, MPI_Comm comm,
                                         std::string who) {
  auto message = std::make_shared<Message>();
  message->who = std::move(who);
  message->bytes = bytes;
  const std::lock_guard lock(mutex_);
  for (size_t at = 0; at < std::max<size_t>(bytes, 1); at += kMost) {
    MPI_Request request;
    check_mpi(MPI_Irecv(static_cast<std::byte*>(data) + at, static_cast<int>(std::min(kMost, bytes - at)),
                        MPI_BYTE, peer, tag, comm, &request),
              "MPI_Irecv");
    ++message->left;
    requests_.push_back(request);
    messages_.push_back(message);
  }
  return message;
}

// What is wrong with a message that came or went; empty: nothing.
std::string MpiMessages::fault(const Message& message, int code, const MPI_Status& status) {
  int bytes = 0;
  MPI_Get_count(&status, MPI_BYTE, &bytes);
  const bool failed = code == MPI_ERR_IN_STATUS && status.MPI_ERROR != MPI_SUCCESS;
  if (!failed &&
      (message.bytes == 0 || message.bytes >= kMost || static_cast<size_t>(bytes) == message.bytes))
    return "";
  return "the message to or from " + message.who + " failed, or has another size than the " +
         std::to_string(message.bytes) + " bytes that were to come";
}

void MpiMessages::test() {
  if (requests_.empty()) return;
  std::vector<int> done(requests_.size());
  std::vector<MPI_Status> statuses(requests_.size());
  int count = 0;
  const auto end = [](Message& message, const std::string& error) {
    if (!error.empty()) message.error = error;
    if (--message.left == 0) message.done.store(true, std::memory_order_release);
  };
  const int code = MPI_Testsome(static_cast<int>(requests_.size()), requests_.data(), &count, done.data(),
                                statuses.data());
  if (code != MPI_SUCCESS && code != MPI_ERR_IN_STATUS) {
    for (const Ticket& message : messages_) end(*message, "MPI_Testsome failed");
    requests_.clear();
    messages_.clear();
    return;
  }
  for (int i = 0; i < count; ++i) end(*messages_[done[i]], fault(*messages_[done[i]], code, statuses[i]));
  size_t kept = 0;
  for (size_t i = 0; i < requests_.size(); ++i) {
    if (requests_[i] == MPI_REQUEST_NULL) continue;
    requests_[kept] = requests_[i];
    messages_[kept++] = std::move(messages_[i]);
  }
  requests_.resize(kept);
  messages_.resize(kept);
}

bool MpiMessages::done(const Ticket& ticket) const {
  if (!ticket->done.load(std::memory_order_acquire)) return false;
  if (ticket->error.empty()) return true;
  throw Error(ticket->error, {where_, "every rank must make the same calls in the same order"});
}

void MpiMessages::wait(const std::vector<Ticket>& tickets, const char* name) {
  const auto start = Clock::now();
  for (const Ticket& ticket : tickets) {
    while (!done(ticket)) {
      {
        const std::lock_guard lock(mutex_);
        attended_ = true;
        test();
      }
      if (done(ticket)) break;
      const auto waited = Clock::now() - start;
      if (waited > deadline_) {
        throw Error("'" + std::string(name) + "' was not reached within " +
                        std::to_string(deadline_.count() / 1000.0) + " s by " + ticket->who +
                        ", or by one that it waits for",
                    {where_, "a worker hangs or is stopped; run.deadline sets how long to wait"});
      }
      if (waited > kEager) std::this_thread::sleep_for(kSleep);
    }
  }
}

void MpiMessages::leave_to_helper() {
  const std::lock_guard lock(mutex_);
  if (requests_.empty() || !may_help_) return;
  attended_ = false;
  if (!helper_.joinable()) helper_ = std::thread([this] { help(); });
  wake_.notify_one();
}

bool MpiMessages::idle() {
  const std::lock_guard lock(mutex_);
  return requests_.empty();
}

void MpiMessages::help() {
  std::unique_lock lock(mutex_);
  while (!ending_) {
    if (attended_ || requests_.empty()) {
      wake_.wait(lock);
      continue;
    }
    test();
    wake_.wait_for(lock, kSleep);
  }
}

}  // namespace rekindle
