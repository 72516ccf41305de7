// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sys/types.h>

#include <csignal>
#include <initializer_list>
#include <optional>

#include "launcher/compose.h"

namespace rekindle {

// Owns a file descriptor.
class Descriptor {
 public:
  explicit Descriptor(int number = -1) : number_(number) {}
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;
  ~Descriptor() { reset(); }

  int get() const { return number_; }  // -1: none
  void reset(int number = -1);         // closes what it owns

 private:
  int number_;
};

// Turns signals into something that poll() can wait for, for as long as it lives: SIGCHLD and those given.
// One at a time, on the main thread of a program that has no other.
class SignalQueue {
 public:
  explicit SignalQueue(std::initializer_list<int> signals);
  SignalQueue(const SignalQueue&) = delete;
  SignalQueue& operator=(const SignalQueue&) = delete;
  ~SignalQueue();

  int descriptor() const { return queue_.get(); }
  const sigset_t& mask_before() const { return before_; }  // what a child should have
  std::optional<int> next();                               // none: nothing more for now

 private:
  sigset_t before_;
  Descriptor queue_;
};

// A started program in a session of its own: a terminal's Ctrl-C does not reach it, and it reads nothing.
// Should this process be killed, the kernel sends it a TERM. It is not ended by the destructor.
class Child {
 public:
  Child(const Launch& launch, const sigset_t& mask);  // throws Error where it cannot be started
  Child(const Child&) = delete;
  Child& operator=(const Child&) = delete;

  int errors() const { return errors_.get(); }  // its standard error, not blocking; -1 once closed
  void close_errors() { errors_.reset(); }
  void send(int signal) const;
  std::optional<int> ended();  // its wait status; none while it runs

 private:
  pid_t id_ = -1;
  Descriptor errors_;
  std::optional<int> status_;
};

}  // namespace rekindle
