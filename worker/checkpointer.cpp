// SPDX-License-Identifier: Apache-2.0
#include "worker/checkpointer.h"

#include <unistd.h>

#include <algorithm>
#include <chrono>

#include "checkpoints/optimizer_part.h"
#include "core/error.h"
#include "core/log.h"
#include "core/names.h"
#include "core/text.h"
#include "data/sample_order.h"
#include "warmstart/load_weights.h"

namespace rekindle {
namespace {

using nlohmann::json;

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

json to_json(const std::vector<FileRecord>& records) {
  json list = json::array();
  for (const FileRecord& record : records) list.push_back({record.name, record.bytes, record.digest});
  return list;
}

}  // namespace

Checkpointer::Checkpointer(const Run& run, Optimizer& optimizer, Lineage lineage, ModelCard card)
    : run_(run),
      optimizer_(optimizer),
      store_(run.files, run.directory / names::kCheckpoints, run.job.checkpoint),
      lineage_(std::move(lineage)),
      inherited_(lineage_.increments),
      card_(std::move(card)),
      attempt_(utc_stamp(unix_seconds()) + "-" + std::to_string(getpid())),
      worlds_{{0, run.communicator.world()}} {
  broadcast_text(run.communicator, attempt_, 0, "name of the attempt");
}

const Published& Checkpointer::save(const Progress& progress) {
  const auto start = std::chrono::steady_clock::now();
  Communicator& communicator = run_.communicator;
  const TrainState state{progress, run_.job.run.seed, optimizer_.steps(), worlds_, lineage_.job};
  const std::filesystem::path temporary = store_.temporary(progress.step, attempt_);
  Published published;
  try {
    together(
        communicator, "checkpoint", [&] { store_.prepare(progress.step, attempt_); }, 0);
    std::vector<FileRecord> mine;
    together(communicator, "checkpoint", [&] { mine = write_part(temporary, state); });
    const std::vector<FileRecord> all = gather(mine);
    together(
        communicator, "checkpoint", [&] { published = store_.publish(progress.step, attempt_, all); }, 0);
  } catch (const Error&) {
    if (run_.is_root()) store_.discard(progress.step, attempt_);
    throw;
  }
  broadcast_text(communicator, published.digest, 0, "digest of the checkpoint");
  latest_ = published;
  const std::chrono::duration<double, std::milli> stall = std::chrono::steady_clock::now() - start;
  run_.metrics.write("checkpoint", {{"step", progress.step},
                                    {"samples", progress.samples},
                                    {"path", published.path.lexically_relative(run_.directory).string()},
                                    {"digest", published.digest},
                                    {"bytes", published.bytes},
                                    {"stall_ms", stall.count()}});
  if (!published.complaint.empty()) log_warning(published.complaint);
  return *latest_;
}

std::vector<FileRecord> Checkpointer::write_part(const std::filesystem::path& directory,
                                                 const TrainState& state) {
  std::vector<FileRecord> records;
  const int rank = run_.communicator.rank(), world = run_.communicator.world();
  if (!optimizer_.moment_names().empty()) {
    std::vector<ShardView> shards;
    std::vector<at::Tensor> here;  // what they view: copies of what lies on a GPU
    for (const Optimizer::Segment& segment : optimizer_.segments()) {
      for (size_t m = 0; m < segment.moments.size(); ++m) {
        here.push_back(segment.moments[m].to(at::kCPU));
        const auto* moment = reinterpret_cast<const std::byte*>(here.back().const_data_ptr<float>());
        for_each_stretch(run_.parameters.layout(), segment.range,
                         [&](const std::string& name, int64_t offset, int64_t at, int64_t length) {
                           shards.push_back({name,
                                             optimizer_.moment_names()[m],
                                             offset,
                                             length,
                                             {moment + at * sizeof(float), length * sizeof(float)}});
                         });
      }
    }
    const auto path = directory / names::optimizer_part(rank, world);
    records.push_back(record_of(run_.files, path, write_optimizer_part(run_.files, path, shards)));
  }
  if (!run_.is_root()) return records;
  const auto path = directory / names::kModel;
  const NamedState here = on_host(run_.state);
  records.push_back(record_of(run_.files, path, safetensors::write(run_.files, path, views_of(here))));
  Lineage lineage = lineage_;
  lineage.increments = count_seen(state.progress);
  for (FileRecord& record : write_documents(run_.files, directory, state, lineage, card_)) {
    records.push_back(std::move(record));
  }
  return records;
}

std::vector<FileRecord> Checkpointer::gather(const std::vector<FileRecord>& mine) {
  std::vector<FileRecord> all;
  for (const std::string& text :
       all_gather_text(run_.communicator, to_json(mine).dump(), "files of the checkpoint")) {
    for (const json& record : json::parse(text)) all.push_back({record[0], record[1], record[2]});
  }
  return all;
}

// Whole epochs have seen every sample; of the running one the order says which. Added to what the parent saw.
std::vector<IncrementRecord> Checkpointer::count_seen(const Progress& progress) const {
  const std::vector<int64_t>& train = run_.split.train;
  const auto size = static_cast<int64_t>(train.size());
  const int64_t epochs = progress.samples / size, rest = progress.samples % size;
  std::vector<IncrementRecord> records = inherited_;
  std::vector<int64_t> ends;   // in `train`, of each increment
  std::vector<size_t> record;  // of each increment
  for (const Increment& increment : run_.data.increments()) {
    const int64_t begin = ends.empty() ? 0 : ends.back();
    ends.push_back(std::lower_bound(train.begin(), train.end(), increment.end) - train.begin());
    const auto same = [&](const IncrementRecord& known) { return known.digest == increment.digest; };
    record.push_back(std::find_if(records.begin(), records.end(), same) - records.begin());
    if (record.back() == records.size()) records.push_back({increment.digest, increment.samples(), 0});
    records[record.back()].seen += epochs * (ends.back() - begin);
  }
  const SampleOrder order(run_.job.run.seed, epochs, size, run_.job.data.shuffle);
  for (int64_t position = 0; position < rest; ++position) {
    const auto increment = std::upper_bound(ends.begin(), ends.end(), order.at(position)) - ends.begin();
    ++records[record[increment]].seen;
  }
  return records;
}

std::optional<Progress> Checkpointer::resume() {
  Communicator& communicator = run_.communicator;
  std::string path;
  together(
      communicator, "looking for a checkpoint",
      [&] {
        std::vector<std::string> complaints;
        if (const auto newest = store_.newest_valid(&complaints)) path = newest->path.string();
        for (const std::string& complaint : complaints) log_warning(complaint);
        if (path.empty() && !complaints.empty()) {
          throw bad_input("no checkpoint of this run is whole any more", run_.directory.string(),
                          "move the run directory away to start over; what is wrong with each stands above");
        }
      },
      0);
  broadcast_text(communicator, path, 0, "path of the checkpoint");
  if (path.empty()) return std::nullopt;

  std::optional<Checkpoint> checkpoint;
  together(communicator, "reading the checkpoint", [&] {
    checkpoint = open_checkpoint(run_.files, path, Verify::kDocuments);
    check_data(*checkpoint);
    read_moments(*checkpoint);
  });
  load_weights(communicator, run_.files, checkpoint->path / names::kModel, run_.state, run_.parameters.flat(),
               1.0);
  optimizer_.set_steps(checkpoint->state.optimizer_steps);
  worlds_ = checkpoint->state.worlds;
  if (worlds_.back().world != communicator.world()) {
    worlds_.push_back({checkpoint->state.progress.step, communicator.world()});
  }
  latest_ = Published{checkpoint->path, checkpoint->digest(), checkpoint->manifest.bytes(), ""};
  return checkpoint->state.progress;
}

void Checkpointer::check_data(const Checkpoint& checkpoint) const {
  const auto& saved = checkpoint.lineage.increments;
  const std::vector<IncrementRecord> now = count_seen({});
  for (size_t i = 0; i < std::max(saved.size(), now.size()); ++i) {
    if (i < saved.size() && i < now.size() && saved[i].digest == now[i].digest) continue;
    const auto& mine = run_.data.increments();
    const auto changed = std::find_if(mine.begin(), mine.end(), [&](const Increment& increment) {
      return i < now.size() && increment.digest == now[i].digest;
    });
    throw bad_input("increment " + std::to_string(changed - mine.begin() + 1) +
                        " is no longer what this run was trained on",
                    changed == mine.end() ? run_.directory.string() : changed->path,
                    "a run is resumed on the very same data; new data are for a new run");
  }
}

void Checkpointer::read_moments(const Checkpoint& checkpoint) {
  if (optimizer_.moment_names().empty()) return;
  const OptimizerParts parts(run_.files, checkpoint.path, checkpoint.manifest);
  for (const Optimizer::Segment& segment : optimizer_.segments()) {
    for (size_t m = 0; m < segment.moments.size(); ++m) {
      at::Tensor here = segment.moments[m].to(at::kCPU);  // itself, unless it lies on a GPU
      auto* moment = reinterpret_cast<std::byte*>(here.mutable_data_ptr<float>());
      for_each_stretch(run_.parameters.layout(), segment.range,
                       [&](const std::string& name, int64_t offset, int64_t at, int64_t length) {
                         parts.read(name, optimizer_.moment_names()[m], {offset, offset + length},
                                    {moment + at * sizeof(float), length * sizeof(float)});
                       });
      if (!segment.moments[m].is_cpu()) segment.moments[m].copy_(here);
    }
  }
}

}  // namespace rekindle
