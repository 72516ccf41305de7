// SPDX-License-Identifier: Apache-2.0
#include "worker/checkpointer.h"

#include <ATen/ops/ones.h>
#include <ATen/ops/zeros.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cmath>

#include "core/error.h"
#include "core/log.h"
#include "core/names.h"
#include "core/text.h"
#include "data/sample_order.h"
#include "worker/moments.h"
#include "worker/preflight.h"

namespace rekindle {
namespace {

using nlohmann::json;

CheckpointOptions store_options(const Run& run) {
  CheckpointOptions options = run.job.checkpoint;
  const Length& every = options.keep_every;
  if (every.is_zero()) return options;
  const Timeline timeline = timeline_of(run.job, static_cast<int64_t>(run.split.train.size()));
  const Length& duration = run.job.run.duration;
  if (every.unit == Unit::kBatches) {
    options.keep_steps = std::max<int64_t>(1, std::llround(every.value));
    return options;
  }
  const double all = duration.is_time() ? 0 : timeline.samples_in(duration, 0);
  const double epochs = timeline.samples_in(every, all) / static_cast<double>(timeline.epoch_samples());
  options.keep_steps =
      std::max<int64_t>(1, std::llround(epochs * static_cast<double>(timeline.steps_per_epoch())));
  return options;
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
      store_(run.files, run.directory / names::kCheckpoints, store_options(run)),
      lineage_(std::move(lineage)),
      inherited_(lineage_.increments),
      card_(std::move(card)),
      attempt_(utc_stamp(unix_seconds()) + "-" + std::to_string(getpid())),
      worlds_{{0, run.communicator.world()}} {
  broadcast_text(run.communicator, attempt_, 0, "name of the attempt");
  if (gathers()) learn_segments();
}

Checkpointer::~Checkpointer() {
  if (writing_.valid()) writing_.wait();
  if (publishing_.valid()) publishing_.wait();
  if (phase_ != Phase::kIdle && run_.is_root() && !published_) store_.discard(state_.progress.step, attempt_);
}

// Where rank 0 gathers it must know what each rank owns.
void Checkpointer::learn_segments() {
  json mine = json::array();
  for (const Optimizer::Segment& segment : optimizer_.segments())
    mine.push_back({segment.range.begin, segment.range.end});
  for (const std::string& text : all_gather_text(run_.communicator, mine.dump(), "parts of the optimizer")) {
    gathered_.emplace_back();
    for (const json& range : json::parse(text)) gathered_.back().push_back({range[0], range[1]});
  }
}

void Checkpointer::reserve() {
  if (run_.job.checkpoint.background)
    room_ =
        std::async(std::launch::async, [this] { return Snapshot::room_for(run_, optimizer_, gathered_); });
}

void Checkpointer::take_snapshot() {
  if (!run_.job.checkpoint.background) {
    snapshot_ = Snapshot::view_of(run_, optimizer_, gathered_);
    return;
  }
  if (room_.valid()) {
    snapshot_ = room_.get();
  } else if (snapshot_.empty()) {
    snapshot_ = Snapshot::room_for(run_, optimizer_, gathered_);
  }
  snapshot_.copy_from(run_, optimizer_);
}

void Checkpointer::save(TrainState state) {
  const auto begin = std::chrono::steady_clock::now();
  finish();
  state_ = std::move(state);
  state_.seed = run_.job.run.seed;
  state_.optimizer_steps = optimizer_.steps();
  state_.missed_steps = optimizer_.missed_steps();
  state_.worlds = worlds_;
  state_.job_digest = lineage_.job;
  const Progress progress = state_.progress;
  began_ = begin;
  together(
      run_.communicator, "checkpoint", [&] { store_.prepare(progress.step, attempt_); }, 0);
  try {
    together(run_.communicator, "checkpoint", [&] { take_snapshot(); });
  } catch (const AgreedError&) {
    if (run_.is_root()) store_.discard(progress.step, attempt_);
    throw;
  }
  if (gathers()) snapshot_.gather(run_.communicator.host(), optimizer_, gathered_);
  phase_ = Phase::kWriting;
  writing_ = std::async(std::launch::async, [this, state = state_] {
    return write_part(store_.temporary(state.progress.step, attempt_), state);
  });
  if (!run_.job.checkpoint.background) {
    finish();
    snapshot_ = {};
  }
  const std::chrono::duration<double, std::milli> stall = std::chrono::steady_clock::now() - begin;
  stall_ms_ = stall.count();
}

Checkpointer::Sign Checkpointer::sign() {
  constexpr auto kNow = std::chrono::seconds(0);
  try {
    if (writing_.valid() && writing_.wait_for(kNow) == std::future_status::ready) {
      records_ = writing_.get();
      written_ = true;
    }
    if (publishing_.valid() && publishing_.wait_for(kNow) == std::future_status::ready)
      published_ = publishing_.get();
  } catch (...) {
    failure_ = std::current_exception();
  }
  return {static_cast<double>(written_), static_cast<double>(failure_ != nullptr),
          static_cast<double>(published_.has_value())};
}

void Checkpointer::advance(const Sign& sum) {
  if (phase_ == Phase::kIdle) return;
  if (sum.failed > 0) give_up();
  if (phase_ == Phase::kPublishing && sum.published > 0) return end_save();
  if (phase_ == Phase::kPublishing || sum.written < run_.communicator.world()) return;
  const std::vector<FileRecord> all = gather(records_);
  phase_ = Phase::kPublishing;
  if (!run_.is_root()) return;
  const bool best = state_.best && state_.best->step == state_.progress.step;
  publishing_ = std::async(std::launch::async, [this, step = state_.progress.step, all, best] {
    return store_.publish(step, attempt_, all, best);
  });
}

void Checkpointer::finish() {
  while (phase_ != Phase::kIdle) {
    wait_a_while();
    const Sign mine = sign();
    const at::Tensor sums = at::zeros({3}, at::kDouble);
    double* const values = sums.data_ptr<double>();
    values[0] = mine.written, values[1] = mine.failed, values[2] = mine.published;
    run_.communicator.host().all_reduce(sums, Communicator::Op::kSum, "checkpoint");
    advance({values[0], values[1], values[2]});
  }
}

// However slow the disk is, the others hear of this rank long before the deadline of their waits.
bool Checkpointer::wait_a_while() {
  const auto patience =
      std::min<std::chrono::milliseconds>(std::chrono::seconds(1), run_.job.run.deadline / 4);
  const auto over = [&](const auto& future) {
    return !future.valid() || future.wait_for(patience) == std::future_status::ready;
  };
  const bool written = over(writing_), published = over(publishing_);
  return written && published;
}

void Checkpointer::give_up() {
  phase_ = Phase::kIdle;
  const at::Tensor writing = at::ones({1}, at::kLong);
  while (writing.item<int64_t>() > 0) {  // nobody writes into what is removed
    writing.fill_(wait_a_while() ? 0 : 1);
    run_.communicator.host().all_reduce(writing, Communicator::Op::kSum, "checkpoint");
  }
  if (run_.is_root()) store_.discard(state_.progress.step, attempt_);
  together(run_.communicator, "checkpoint", [&] {
    if (failure_) std::rethrow_exception(failure_);
  });
  throw Error("a checkpoint failed, and no rank says why");
}

void Checkpointer::end_save() {
  phase_ = Phase::kIdle;
  Published published = published_.value_or(Published{});
  published_.reset();
  written_ = false;
  published.path = run_.directory / names::kCheckpoints / names::step(state_.progress.step);
  broadcast_text(run_.communicator, published.digest, 0, "digest of the checkpoint");
  latest_ = published;
  const std::chrono::duration<double> took = std::chrono::steady_clock::now() - began_;
  run_.metrics.write("checkpoint",
                     {{"step", state_.progress.step},
                      {"samples", state_.progress.samples},
                      {"path", published.path.lexically_relative(run_.directory).string()},
                      {"digest", published.digest},
                      {"bytes", published.bytes},
                      {"stall_ms", run_.job.checkpoint.background ? stall_ms_ : 1e3 * took.count()},
                      {"seconds", took.count()}});
  if (!published.complaint.empty()) log_warning(published.complaint);
}

std::vector<FileRecord> Checkpointer::write_part(const std::filesystem::path& directory,
                                                 const TrainState& state) const {
  std::vector<FileRecord> records;
  const bool writes = run_.is_root() || !gathers();
  for (const Snapshot::Part& part : snapshot_.parts()) {
    if (!writes || optimizer_.moment_names().empty()) continue;
    const std::vector<ShardView> shards =
        shards_of(part, run_.parameters.layout(), optimizer_.moment_names());
    const auto path = directory / names::optimizer_part(part.rank, run_.communicator.world());
    records.push_back(record_of(run_.files, path, write_optimizer_part(run_.files, path, shards)));
  }
  if (!run_.is_root()) return records;
  const auto path = directory / names::kModel;
  records.push_back(
      record_of(run_.files, path, safetensors::write(run_.files, path, views_of(snapshot_.weights()))));
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
  if (record.size() == 1) {
    records[record[0]].seen += rest;
    return records;
  }
  const SampleOrder order(run_.job.run.seed, epochs, size, run_.job.data.shuffle);
  for (int64_t position = 0; position < rest; ++position) {
    const auto increment = std::upper_bound(ends.begin(), ends.end(), order.at(position)) - ends.begin();
    ++records[record[increment]].seen;
  }
  return records;
}

std::optional<int64_t> Checkpointer::drop_from(int64_t step) {
  finish();
  std::string newest;
  const auto drop = [&] {
    if (const std::optional<int64_t> before = store_.drop_from(step)) newest = std::to_string(*before);
  };
  together(run_.communicator, "going back", drop, 0);
  broadcast_text(run_.communicator, newest, 0, "step of the checkpoint");
  return newest.empty() ? std::nullopt : std::optional<int64_t>(std::stoll(newest));
}

std::optional<TrainState> Checkpointer::resume() {
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

  WeightSource weights;
  const TrainState state = read_checkpoint(path, weights);
  const auto mend_links = [&] {
    store_.mend_links(state.progress.step, state.best ? std::optional(state.best->step) : std::nullopt);
  };
  together(communicator, "links to the checkpoints", mend_links, 0);
  WarmStartOptions everything;
  everything.min_loaded = 1;
  load_weights(communicator, run_.files, weights, run_.state, everything);
  optimizer_.set_steps(state.optimizer_steps, state.missed_steps);
  worlds_ = state.worlds;
  if (worlds_.back().world != communicator.world()) {
    worlds_.push_back({state.progress.step, communicator.world()});
  }
  return state;
}

// Everything but the weights. Where ranks share no file system rank 0 reads it for all.
TrainState Checkpointer::read_checkpoint(const std::string& path, WeightSource& weights) {
  std::optional<Checkpoint> checkpoint;
  const bool gathered = gathers();
  together(
      run_.communicator, "reading the checkpoint",
      [&] {
        checkpoint = open_checkpoint(run_.files, path, Verify::kDocuments);
        check_data(*checkpoint);
        if (!gathered) read_moments(run_.files, *checkpoint, run_.parameters.layout(), optimizer_);
      },
      gathered ? 0 : -1);
  json facts;
  if (checkpoint) {
    facts = {{"state", to_json(checkpoint->state)},
             {"digest", checkpoint->digest()},
             {"bytes", checkpoint->manifest.bytes()},
             {"path", checkpoint->path.string()},
             {"weights", checkpoint->manifest.find(names::kModel)->digest}};
  }
  std::string text = facts.dump();
  broadcast_text(run_.communicator, text, 0, "state of the checkpoint");
  facts = json::parse(text);
  if (gathered && !optimizer_.moment_names().empty()) {
    std::optional<OptimizerParts> parts;
    together(
        run_.communicator, "reading the moments",
        [&] { parts.emplace(run_.files, checkpoint->path, checkpoint->manifest); }, 0);
    read_moments_together(run_.communicator, parts ? &*parts : nullptr, run_.parameters.layout(), optimizer_);
  }
  const std::filesystem::path place = std::string(facts["path"]);
  weights = {place / names::kModel, facts["weights"]};
  latest_ = Published{place, facts["digest"], facts["bytes"], ""};
  return train_state_from_json(facts["state"], path);
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

void Checkpointer::inherit_moments(const std::filesystem::path& parent, const HeadClasses& classes) {
  together(run_.communicator, "reading the parent's moments", [&] {
    const Checkpoint checkpoint = open_checkpoint(run_.files, parent, Verify::kDocuments);
    const WarmStartOptions& options = run_.job.warm_start;
    std::vector<std::string> wanted;
    if (options.optimizer == Carry::kLoad) {
      check_same_rule(run_.files, checkpoint, optimizer_.moment_names());
      wanted = moment_names_of(run_.job.optimizer);
    }
    if (options.ema == Carry::kLoad) {
      check_has_average(run_.files, checkpoint);
      wanted.emplace_back(kOtherWeights);
    }
    const Carried carried = carried_by_load(run_.files, checkpoint.path / names::kModel, run_.state,
                                            run_.job.warm_start, classes);
    if (options.optimizer == Carry::kLoad) {
      const TrainState& parent_state = checkpoint.state;
      const OptimizerParts parts(run_.files, checkpoint.path, checkpoint.manifest);
      optimizer_.set_steps(parent_state.optimizer_steps,
                           missed_steps(parts, parent_state, run_.parameters.layout(), carried));
    }
    rekindle::inherit_moments(run_.files, checkpoint, run_.parameters.layout(), optimizer_, carried, wanted);
  });
}

}  // namespace rekindle
