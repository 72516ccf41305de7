// SPDX-License-Identifier: Apache-2.0
#include "comm/communicator.h"

#include <ATen/ops/from_blob.h>
#include <ATen/ops/zeros.h>
#include <c10/util/Exception.h>

#include <cstring>
#include <optional>

#include "core/error.h"

namespace rekindle {

std::unique_ptr<Communicator> Communicator::split(int) {
  throw Error("cannot be split");
}
namespace {

// An Error as text and back. The separator cannot stand in a message.
constexpr char kSeparator = '\x1f';

std::string pack(const Error& error) {
  return std::to_string(static_cast<int>(error.code())) + kSeparator + error.summary() + kSeparator +
         error.details().where + kSeparator + error.details().hint;
}

Error unpack(const std::string& text) {
  std::vector<std::string> fields(1);
  for (const char c : text) {
    if (c == kSeparator)
      fields.emplace_back();
    else
      fields.back().push_back(c);
  }
  fields.resize(4);
  return Error(fields[1], {fields[2], fields[3], static_cast<ExitCode>(std::stoi(fields[0]))});
}

}  // namespace

std::vector<std::string> all_gather_text(Communicator& communicator, const std::string& text,
                                         const char* name) {
  const int world = communicator.world(), rank = communicator.rank();
  at::Tensor lengths = at::zeros({world}, at::kLong);
  lengths.data_ptr<int64_t>()[rank] = static_cast<int64_t>(text.size());
  communicator.all_reduce(lengths, Communicator::Op::kSum, name);
  const int64_t* length = lengths.data_ptr<int64_t>();

  std::vector<int64_t> start(world + 1, 0);
  for (int r = 0; r < world; ++r) start[r + 1] = start[r] + length[r];
  at::Tensor bytes =
      at::zeros({start[world]}, at::kByte);  // the others' parts are zero, so the sum is the text
  if (!text.empty()) std::memcpy(bytes.data_ptr<uint8_t>() + start[rank], text.data(), text.size());
  communicator.all_reduce(bytes, Communicator::Op::kSum, name);

  const char* all = reinterpret_cast<const char*>(bytes.data_ptr<uint8_t>());
  std::vector<std::string> texts;
  for (int r = 0; r < world; ++r) texts.emplace_back(all + start[r], length[r]);
  return texts;
}

void broadcast_text(Communicator& communicator, std::string& text, int root, const char* name) {
  text = all_gather_text(communicator, communicator.rank() == root ? text : std::string(), name)[root];
}

void check_same(Communicator& communicator, const std::string& text, const char* what, const char* hint) {
  const auto texts = all_gather_text(communicator, text, what);
  for (size_t rank = 1; rank < texts.size(); ++rank) {
    if (texts[rank] == texts[0]) continue;
    throw AgreedError(
        bad_input("rank " + std::to_string(rank) + " does not hold the same " + what + " as rank 0",
                  "rank " + std::to_string(rank), hint));
  }
}

void together(Communicator& communicator, const char* name, const std::function<void()>& part, int only) {
  std::optional<Error> failure;
  if (only < 0 || only == communicator.rank()) {
    try {
      part();
    } catch (const Error& error) {
      failure = error;
    } catch (const c10::Error& error) {
      failure = Error(std::string(name) + ": " + error.what_without_backtrace());
    } catch (const std::exception& error) {
      failure = Error(std::string(name) + ": " + error.what());
    }
  }
  at::Tensor failed = at::zeros({1}, at::kLong);
  failed.data_ptr<int64_t>()[0] = failure.has_value();
  communicator.all_reduce(failed, Communicator::Op::kMax, name);
  if (failed.data_ptr<int64_t>()[0] == 0) return;
  for (const std::string& text :
       all_gather_text(communicator, failure ? pack(*failure) : std::string(), name)) {
    if (!text.empty()) throw AgreedError(unpack(text));
  }
}

}  // namespace rekindle
