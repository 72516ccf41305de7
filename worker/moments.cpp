// SPDX-License-Identifier: Apache-2.0
#include "worker/moments.h"

#include <ATen/ops/empty.h>

#include <algorithm>
#include <exception>
#include <optional>

#include "core/error.h"
#include "core/text.h"

namespace rekindle {
namespace {

// What a segment of the flat line holds of each parameter: visit(parameter, offset in it, offset in the
// segment, length).
template <typename Visit>
void for_each_stretch(const FlatLayout& layout, Range segment, const Visit& visit) {
  for (const FlatLayout::Entry& entry : layout.entries()) {
    const Range part = entry.range.intersect(segment);
    if (!part.empty())
      visit(entry.name, part.begin - entry.range.begin, part.begin - segment.begin, part.size());
  }
}

// The elements `range` of a child's moment, from where its parameter came from, if anywhere.
void read_carried(const OptimizerParts& parts, const FlatLayout& layout, const Carried& carried,
                  const std::string& name, const std::string& moment, Range range, std::span<float> into) {
  const auto from = carried.find(name);
  if (from == carried.end()) return;
  const auto& [source, rows] = from->second;
  const std::vector<std::string> kept = parts.moments(source);
  if (std::ranges::count(kept, moment) == 0) return;  // the parent had it frozen
  const auto read = [&](int64_t begin, std::span<float> part) {
    parts.read(source, moment, {begin, begin + static_cast<int64_t>(part.size())},
               std::as_writable_bytes(part));
  };
  if (rows.empty()) return read(range.begin, into);
  const int64_t row = std::ranges::find(layout.entries(), name, &FlatLayout::Entry::name)->range.size() /
                      static_cast<int64_t>(rows.size());
  for (int64_t at = range.begin; at < range.end;) {
    const int64_t mine = at / row, end = std::min(range.end, (mine + 1) * row);
    if (rows[mine] >= 0) read(rows[mine] * row + at % row, into.subspan(at - range.begin, end - at));
    at = end;
  }
}

// read(parameter, moment, elements of it, where to) for all of `wanted` that this rank owns.
template <typename Read>
void read_owned(const FlatLayout& layout, Optimizer& optimizer, const std::vector<std::string>& wanted,
                const Read& read) {
  for (const Optimizer::Segment& segment : optimizer.segments()) {
    for (size_t m = 0; m < segment.moments.size(); ++m) {
      const std::string& moment = optimizer.moment_names()[m];
      if (std::ranges::count(wanted, moment) == 0) continue;
      at::Tensor here = segment.moments[m].to(at::kCPU);  // itself, unless it lies on a GPU
      const std::span<float> values(here.mutable_data_ptr<float>(), here.numel());
      for_each_stretch(layout, segment.range,
                       [&](const std::string& name, int64_t offset, int64_t at, int64_t length) {
                         read(name, moment, Range{offset, offset + length}, values.subspan(at, length));
                       });
      if (!segment.moments[m].is_cpu()) segment.moments[m].copy_(here);
    }
  }
}

}  // namespace

std::vector<ShardView> shards_of(const Snapshot::Part& part, const FlatLayout& layout,
                                 const std::vector<std::string>& moment_names) {
  std::vector<ShardView> shards;
  for (size_t s = 0; s < part.segments.size(); ++s) {
    for (size_t m = 0; m < part.moments[s].size(); ++m) {
      const auto* moment = reinterpret_cast<const std::byte*>(part.moments[s][m].const_data_ptr<float>());
      for_each_stretch(layout, part.segments[s],
                       [&](const std::string& name, int64_t offset, int64_t at, int64_t length) {
                         shards.push_back({name,
                                           moment_names[m],
                                           offset,
                                           length,
                                           {moment + at * sizeof(float), length * sizeof(float)}});
                       });
    }
  }
  return shards;
}

void check_same_rule(FileSystem& files, const Checkpoint& checkpoint, std::vector<std::string> moment_names) {
  std::vector<std::string> there = OptimizerParts(files, checkpoint.path, checkpoint.manifest).moments();
  std::ranges::sort(moment_names);
  for (auto* names : {&there, &moment_names}) std::erase(*names, kOtherWeights);
  if (there == moment_names) return;
  const auto list = [](const std::vector<std::string>& names) {
    return names.empty() ? "none" : enumerate(names);
  };
  throw bad_input("the parent was trained with another update rule: it has the moments " + list(there) +
                      ", and the child wants " + list(moment_names),
                  checkpoint.path.string(),
                  "take its optimizer.name, or warm_start.load.optimizer = \"reset\"");
}

void check_has_average(FileSystem& files, const Checkpoint& checkpoint) {
  const OptimizerParts parts(files, checkpoint.path, checkpoint.manifest);
  const std::vector<std::string> there = parts.moments();
  if (std::ranges::count(there, kOtherWeights) > 0) return;
  throw bad_input("the parent was trained without averaged weights", checkpoint.path.string(),
                  "take warm_start.load.ema = \"reset\"");
}

void read_moments(FileSystem& files, const Checkpoint& checkpoint, const FlatLayout& layout,
                  Optimizer& optimizer) {
  if (optimizer.moment_names().empty()) return;
  const OptimizerParts parts(files, checkpoint.path, checkpoint.manifest);
  read_owned(layout, optimizer, optimizer.moment_names(),
             [&](const std::string& name, const std::string& moment, Range range, std::span<float> into) {
               parts.read(name, moment, range, std::as_writable_bytes(into));
             });
}

void inherit_moments(FileSystem& files, const Checkpoint& parent, const FlatLayout& layout,
                     Optimizer& optimizer, const Carried& carried, const std::vector<std::string>& wanted) {
  const OptimizerParts parts(files, parent.path, parent.manifest);
  read_owned(layout, optimizer, wanted,
             [&](const std::string& name, const std::string& moment, Range range, std::span<float> into) {
               read_carried(parts, layout, carried, name, moment, range, into);
             });
}

std::map<std::string, int64_t> missed_steps(const OptimizerParts& parts, const TrainState& parent,
                                            const FlatLayout& layout, const Carried& carried) {
  std::map<std::string, int64_t> missed;
  for (const FlatLayout::Entry& entry : layout.entries()) {
    const auto from = carried.find(entry.name);
    if (from == carried.end() || parts.moments(from->second.name).empty()) {
      missed[entry.name] = parent.optimizer_steps;
    } else if (const auto known = parent.missed_steps.find(from->second.name);
               known != parent.missed_steps.end()) {
      missed[entry.name] = known->second;
    }
  }
  return missed;
}

void read_moments_together(Communicator& communicator, const OptimizerParts* parts, const FlatLayout& layout,
                           Optimizer& optimizer) {
  constexpr int64_t kChunk = 1 << 20;
  Communicator& host = communicator.host();
  const at::Tensor passing = at::empty({kChunk}, at::kFloat);
  std::exception_ptr failure;
  for (const FlatLayout::Entry& entry : layout.entries()) {
    for (size_t m = 0; m < optimizer.moment_names().size(); ++m) {
      for (int64_t begin = 0; begin < entry.range.size(); begin += kChunk) {
        const int64_t count = std::min(kChunk, entry.range.size() - begin);
        const at::Tensor here = passing.narrow(0, 0, count);
        try {
          const std::span<float> values(here.mutable_data_ptr<float>(), count);
          if (parts != nullptr && !failure)
            parts->read(entry.name, optimizer.moment_names()[m], {begin, begin + count},
                        std::as_writable_bytes(values));
        } catch (...) {
          failure = std::current_exception();  // the others wait for the rest all the same
        }
        host.broadcast(here, 0, "broadcast of the moments");
        const Range chunk{entry.range.begin + begin, entry.range.begin + begin + count};
        for (const Optimizer::Segment& segment : optimizer.segments()) {
          const Range part = segment.range.intersect(chunk);
          if (part.empty()) continue;
          segment.moments[m]
              .narrow(0, part.begin - segment.range.begin, part.size())
              .copy_(here.narrow(0, part.begin - chunk.begin, part.size()));
        }
      }
    }
  }
  together(
      communicator, "reading the moments",
      [&] {
        if (failure) std::rethrow_exception(failure);
      },
      0);
}

}  // namespace rekindle
