// SPDX-License-Identifier: Apache-2.0
#include "worker/desync_guard.h"

#include <ATen/ops/full.h>

#include <algorithm>
#include <cstring>

#include "core/digest.h"
#include "core/error.h"
#include "core/text.h"

namespace rekindle {
namespace {

constexpr uint64_t kNoCopy = 0;  // in place of a digest: this rank has nothing to compare there

uint64_t digest_of(std::span<const std::byte> bytes) {
  return std::max(hash64(bytes), kNoCopy + 1);
}

void add_digests(const NamedState::Tensors& tensors, bool compares, std::vector<uint64_t>& digests) {
  for (const auto& [name, tensor] : tensors) {
    if (!compares) {
      digests.push_back(kNoCopy);
      continue;
    }
    const at::Tensor here = tensor.detach().to(at::kCPU).contiguous();
    digests.push_back(digest_of({static_cast<const std::byte*>(here.const_data_ptr()), here.nbytes()}));
  }
}

// The same numbers of every rank: [rank][i].
using Table = std::vector<std::vector<uint64_t>>;

Table all_gather(Communicator& communicator, const std::vector<uint64_t>& mine) {
  const std::string text(reinterpret_cast<const char*>(mine.data()), mine.size() * sizeof(uint64_t));
  Table table;
  for (const std::string& theirs : all_gather_text(communicator, text, "digests of the model")) {
    table.emplace_back(mine.size());
    std::memcpy(table.back().data(), theirs.data(), text.size());
  }
  return table;
}

// The ranks that do not hold what most of those do that hold `column`; of equally many, what the lowest does.
std::vector<size_t> odd_ranks(const Table& table, size_t column, size_t& usual) {
  std::ptrdiff_t most = 0;
  for (size_t rank = 0; rank < table.size(); ++rank) {
    const auto same =
        std::ranges::count(table, table[rank][column], [&](const auto& row) { return row[column]; });
    if (table[rank][column] == kNoCopy || same <= most) continue;
    most = same;
    usual = rank;
  }
  std::vector<size_t> odd;
  for (size_t rank = 0; rank < table.size(); ++rank) {
    const uint64_t digest = table[rank][column];
    if (digest != kNoCopy && digest != table[usual][column]) odd.push_back(rank);
  }
  return odd;
}

}  // namespace

DesyncGuard::DesyncGuard(Communicator& communicator, const NamedState& state)
    : communicator_(communicator), state_(state) {
  const bool has_copy = communicator.fills_shared();
  const at::Tensor copies = at::full({1}, static_cast<int64_t>(has_copy), at::kLong);
  communicator.all_reduce(copies, Communicator::Op::kSum, "copies of the parameters");
  compares_parameters_ = has_copy && copies.item<int64_t>() > 1;
}

void DesyncGuard::check(int64_t step) {
  std::vector<uint64_t> digests;
  add_digests(state_.parameters, compares_parameters_, digests);
  const size_t parameters = digests.size();
  add_digests(state_.frozen, true, digests);
  add_digests(state_.buffers, true, digests);

  // Two numbers for all: as good as always they agree.
  const auto bytes = std::as_bytes(std::span(digests));
  const size_t cut = parameters * sizeof(uint64_t);
  const Table table = all_gather(communicator_, {compares_parameters_ ? digest_of(bytes.first(cut)) : kNoCopy,
                                                 digest_of(bytes.subspan(cut))});
  size_t usual = 0;
  if (!odd_ranks(table, 0, usual).empty() || !odd_ranks(table, 1, usual).empty())
    name_difference(digests, step);
}

void DesyncGuard::name_difference(const std::vector<uint64_t>& digests, int64_t step) {
  std::vector<std::string> names, differing, ranks;
  for (const auto* part : {&state_.parameters, &state_.frozen, &state_.buffers}) {
    for (const auto& [name, tensor] : *part) names.push_back(name);
  }
  const Table table = all_gather(communicator_, digests);
  size_t usual_of_first = 0;
  for (size_t i = 0; i < names.size(); ++i) {
    size_t usual = 0;
    const std::vector<size_t> odd = odd_ranks(table, i, usual);
    if (odd.empty()) continue;
    if (differing.empty()) {
      usual_of_first = usual;
      for (const size_t rank : odd) ranks.push_back("rank " + std::to_string(rank));
    }
    differing.push_back(names[i]);
  }
  throw AgreedError(
      Error("the model is no longer the same on all ranks after step " + std::to_string(step) + ": '" +
                differing.at(0) + "' of " + enumerate(ranks) + " is not that of rank " +
                std::to_string(usual_of_first) + " (" + std::to_string(differing.size()) + " of " +
                std::to_string(names.size()) + " tensors differ)",
            {enumerate(ranks),
             "start again to go on from the last checkpoint; where it comes back, "
             "look for a model that changes frozen tensors, then for a machine with faulty memory"}));
}

}  // namespace rekindle
