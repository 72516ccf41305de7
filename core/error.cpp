// SPDX-License-Identifier: Apache-2.0
#include "core/error.h"

#include <cerrno>
#include <cstring>

namespace rekindle {

Error::Error(std::string what, Details details) : summary_(std::move(what)), details_(std::move(details)) {
  text_ = summary_;
  if (!details_.where.empty()) text_ += "\n  at " + details_.where;
  if (!details_.hint.empty()) text_ += "\n  hint: " + details_.hint;
}

Error bad_input(std::string what, std::string where, std::string hint) {
  return Error(std::move(what), {std::move(where), std::move(hint), ExitCode::kBadInput});
}

namespace {

const char* hint_for(int error_number) {
  switch (error_number) {
    case ENOSPC:
      return "the disk is full: free some space, or lower checkpoint.keep";
    case EDQUOT:
      return "the disk quota is used up";
    case EROFS:
      return "the file system is mounted read-only";
    case EACCES:
    case EPERM:
      return "this user may not: check the owner and the permissions";
    case EMFILE:
      return "too many open files: raise the limit (ulimit -n)";
    case EIO:
      return "the disk reports a fault: what was being written is discarded; check the disk";
    default:
      return "";
  }
}

}  // namespace

Error system_error(std::string what, int error_number, std::string where) {
  return Error(what + ": " + std::strerror(error_number),
               {std::move(where), hint_for(error_number), ExitCode::kFailed});
}

}  // namespace rekindle
