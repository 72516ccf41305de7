// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <exception>
#include <string>

namespace rekindle {

// What a program of ours ends with. Scripts depend on the numbers: they change only with a major version.
enum class ExitCode : int {
  kDone = 0,
  kFailed = 1,         // anything that has no code of its own
  kParentStays = 3,    // only with --exit-code: the parent was kept, or nothing is new
  kUsage = 64,         // the command line
  kPreempted = 75,     // asked to stop, saved, to be started again
  kBadInput = 78,      // job file, data or checkpoint
  kDoNotRequeue = 93,  // no progress in several restarts
};

// The one kind of error that is thrown on purpose. It is caught once, in each `main`, and printed there.
class Error : public std::exception {
 public:
  struct Details {
    std::string where = {};  // file:line:column, a path, a rank; empty where there is none
    std::string hint = {};   // what the reader can do about it
    ExitCode code = ExitCode::kFailed;
  };

  explicit Error(std::string what) : Error(std::move(what), Details{}) {}
  Error(std::string what, Details details);

  const char* what() const noexcept override { return text_.c_str(); }  // "WHAT\n  at WHERE\n  hint: HINT"
  const std::string& summary() const { return summary_; }               // the first of these alone
  const Details& details() const { return details_; }
  ExitCode code() const { return details_.code; }

 private:
  std::string summary_, text_;
  Details details_;
};

// An Error that every rank throws at the same place: all of them can end in good order, and one speaks for
// all.
class AgreedError : public Error {
 public:
  explicit AgreedError(const Error& error) : Error(error) {}
};

// An Error for input that cannot be used (exit code 78).
Error bad_input(std::string what, std::string where = "", std::string hint = "");

// An Error for a failed system call: appends the text of `error_number` and, for those that have one
// (no space left, read-only, permission), what to do about it.
Error system_error(std::string what, int error_number, std::string where = "");

}  // namespace rekindle
