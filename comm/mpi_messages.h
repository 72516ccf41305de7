// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <mpi.h>

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstddef>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

namespace rekindle {

// Messages between nodes that go on while this rank computes. MPI moves data only while it is called, so one
// helper thread calls it for as long as messages are on their way: it tests and sleeps, and never blocks
// inside MPI, whose spinning would take the processor from the training. There is one such object a process;
// MPI is called by one thread at a time, the one that holds its lock.
class MpiMessages {
 public:
  struct Message;
  using Ticket = std::shared_ptr<Message>;

  // `where` stands in errors. Without `helper`, which needs MPI_THREAD_SERIALIZED, messages go on during the
  // calls below alone.
  MpiMessages(std::string where, std::chrono::milliseconds deadline, bool helper);
  ~MpiMessages();  // lets go of messages that are still on their way
  MpiMessages(const MpiMessages&) = delete;
  MpiMessages& operator=(const MpiMessages&) = delete;

  // `peer` is named, as `who`, when it does not come.
  Ticket send(const void* data, size_t bytes, int peer, int tag, MPI_Comm comm, std::string who);
  Ticket receive(void* data, size_t bytes, int peer, int tag, MPI_Comm comm, std::string who);
  Ticket start(const std::function<int(MPI_Request*)>& call, std::string who);

  // Lets the helper take care of what is on its way, while this thread does other things.
  void leave_to_helper();

  bool done(const Ticket& ticket) const;
  // Tests, and sleeps, until they are done. Throws Error with `name` after the deadline.
  void wait(const std::vector<Ticket>& tickets, const char* name);

  bool idle();  // nothing is on its way

  // While it is held, other code may call MPI.
  std::unique_lock<std::mutex> lock() { return std::unique_lock(mutex_); }

 private:
  static std::string fault(const Message& message, int code, const MPI_Status& status);
  void test();  // with the lock held
  void help();

  const std::string where_;
  const std::chrono::milliseconds deadline_;
  const bool may_help_;
  std::mutex mutex_;
  std::vector<MPI_Request> requests_;  // on their way
  std::vector<Ticket> messages_;       // whose they are
  std::condition_variable wake_;
  bool attended_ = true, ending_ = false;  // attended: this rank's thread tests itself
  std::thread helper_;
};

}  // namespace rekindle
