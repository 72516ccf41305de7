// SPDX-License-Identifier: Apache-2.0
#include "warmstart/load_weights.h"

#include <ATen/ops/from_blob.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <exception>
#include <memory>
#include <optional>

#include "checkpoints/weight_files.h"
#include "core/error.h"
#include "core/text.h"
#include "warmstart/weight_stream.h"

namespace rekindle {
namespace {

using safetensors::TensorInfo;

// The model's tensors in one list, with what match() asks about them.
struct Targets {
  std::vector<Target> targets;
  std::vector<at::Tensor> tensors;

  explicit Targets(const NamedState& state) {
    add(state.parameters, Target::Part::kParameter);
    add(state.frozen, Target::Part::kFrozen);
    add(state.buffers, Target::Part::kBuffer);
  }

 private:
  void add(const NamedState::Tensors& part, Target::Part which) {
    for (const auto& [name, tensor] : part) {
      targets.push_back({name, tensor.sizes().vec(), dtype_of(tensor), which});
      tensors.push_back(tensor.detach());
    }
  }
};

std::vector<const TensorInfo*> infos_of(const WeightFiles& weights) {
  std::vector<const TensorInfo*> infos;
  for (const WeightFiles::Tensor& tensor : weights.tensors()) infos.push_back(tensor.info);
  return infos;
}

// Of the rows of a head that grew, those that the parent had.
int64_t carried(const Match& match, const Target& target, int64_t elements) {
  if (match.rows.empty()) return elements;
  const auto old = std::ranges::count_if(match.rows, [](int64_t row) { return row >= 0; });
  return elements / target.shape[0] * old;
}

LoadReport report_on(const Matching& matching, const WeightFiles& weights, const Targets& model) {
  LoadReport report;
  const auto is_weight = [&](size_t target) { return model.targets[target].part != Target::Part::kBuffer; };
  for (size_t i = 0; i < model.targets.size(); ++i)
    if (is_weight(i)) report.elements += model.tensors[i].numel();
  for (const Match& match : matching.matches) {
    const Target& target = model.targets[match.target];
    const TensorInfo& source = *weights.tensors()[match.source].info;
    const int64_t elements =
        is_weight(match.target) ? carried(match, target, model.tensors[match.target].numel()) : 0;
    report.loaded.push_back(target.name);
    report.bytes += source.bytes();
    report.loaded_elements += elements;
    if (match.renamed) report.renamed.push_back({source.name, target.name});
    if (match.renamed) report.renamed_elements += elements;
    if (!match.rows.empty()) report.resized.push_back(target.name);
    if (!match.rows.empty()) report.resized_elements += elements;
    if (match.converted) report.converted.push_back(target.name);
  }
  for (const size_t target : matching.fresh) report.fresh.push_back(model.targets[target].name);
  for (const WeightFiles::Tensor& tensor : weights.tensors()) report.file_elements += tensor.info->elements();
  for (const size_t source : matching.unused) {
    report.unused.push_back(weights.tensors()[source].info->name);
    report.unused_elements += weights.tensors()[source].info->elements();
  }
  return report;
}

void check_floor(const LoadReport& report, const std::filesystem::path& file,
                 const WarmStartOptions& options) {
  const double min_loaded = options.min_loaded;
  if (options.weights == Carry::kReset || report.loaded_share() >= min_loaded) return;
  char floor[32];
  std::snprintf(floor, sizeof floor, "%g", min_loaded);
  throw bad_input(
      "too little would be loaded: " + report.text(), file.string(),
      "warm_start.min_loaded is " + std::string(floor) +
          "; check the model, the names of its tensors, which warm_start.rename maps, and what is left out");
}

// A part of a tensor of the model that comes, whole, from one piece of the file.
struct Stretch {
  int64_t target;
  int64_t begin, end;  // elements
};

at::Tensor part_of(const at::Tensor& tensor, const Stretch& stretch) {
  return tensor.view({-1}).narrow(0, stretch.begin, stretch.end - stretch.begin);
}

at::Tensor view(std::span<const std::byte> bytes, at::IntArrayRef shape, safetensors::DType dtype) {
  return at::from_blob(const_cast<std::byte*>(bytes.data()), shape, type_of(dtype));
}

// What a rank reads of the weights.
enum class Reads {
  kAll,        // and takes the digest
  kNotShared,  // what is not in memory that another rank fills
};

// The weights being read on this rank, and put where they belong.
class Reading {
 public:
  Reading(const WeightFiles& weights, const Matching& matching, const Targets& model, Reads reads)
      : weights_(weights), matching_(matching), model_(model), reads_(reads) {
    match_of_.assign(weights.tensors().size(), nullptr);
    for (const Match& match : matching_.matches) match_of_[match.source] = &match;
    stream_ = std::make_unique<WeightStream>(weights, [&](size_t tensor) { return place_of(tensor); });
    for (const WeightStream::Piece& piece : stream_->pieces()) {
      if (const auto stretch = stretch_of(piece)) stretches_.push_back(*stretch);
    }
  }

  const std::vector<Stretch>& stretches() const { return stretches_; }

  // Puts one more stretch in its place. After the last one, reads what is left.
  void next() {
    WeightStream::Piece piece;
    while (stream_->next(piece)) {
      if (match_of_[piece.tensor] != nullptr && put(piece)) return;
    }
  }

  std::string digest() const { return digest_of_weights(weights_, stream_->digests()); }

 private:
  using Use = WeightStream::Use;

  WeightStream::Place place_of(size_t tensor) const {
    const Match* match = match_of_[tensor];
    if (match == nullptr) return {reads_ == Reads::kAll ? Use::kBuffer : Use::kSkip};
    const at::Tensor& target = model_.tensors[match->target];
    const bool parameter = model_.targets[match->target].part == Target::Part::kParameter;
    if (parameter && reads_ == Reads::kNotShared) return {Use::kSkip};
    if (match->converted || !match->rows.empty() || !target.is_cpu()) return {Use::kBuffer};
    return {Use::kInPlace, static_cast<std::byte*>(target.mutable_data_ptr())};
  }

  // What of the model is complete with this piece. A head that grows is sent when all of it is there.
  std::optional<Stretch> stretch_of(const WeightStream::Piece& piece) const {
    const Match* match = match_of_[piece.tensor];
    if (match == nullptr) return std::nullopt;
    const auto target = static_cast<int64_t>(match->target);
    if (!match->rows.empty()) {
      if (!piece.last) return std::nullopt;
      return Stretch{target, 0, model_.tensors[match->target].numel()};
    }
    const auto bytes = safetensors::size_of(weights_.tensors()[piece.tensor].info->dtype);
    const int64_t begin = static_cast<int64_t>(piece.offset) / bytes;
    return Stretch{target, begin, begin + static_cast<int64_t>(piece.bytes.size()) / bytes};
  }

  bool put(const WeightStream::Piece& piece) {
    const Match& match = *match_of_[piece.tensor];
    const std::optional<Stretch> stretch = stretch_of(piece);
    if (!match.rows.empty()) {
      put_in_rows(match, piece);
    } else if (place_of(piece.tensor).use == Use::kBuffer) {
      const at::Tensor here = part_of(model_.tensors[match.target], *stretch);
      here.copy_(view(piece.bytes, here.sizes(), weights_.tensors()[piece.tensor].info->dtype));
    }
    return stretch.has_value();
  }

  // A piece may begin and end within a row.
  void put_in_rows(const Match& match, const WeightStream::Piece& piece) {
    const TensorInfo& info = *weights_.tensors()[match.source].info;
    const int64_t row = info.elements() / info.shape[0], size = safetensors::size_of(info.dtype);
    if (piece.offset == 0) {
      row_in_model_.assign(info.shape[0], -1);
      for (size_t to = 0; to < match.rows.size(); ++to)
        if (match.rows[to] >= 0) row_in_model_[match.rows[to]] = static_cast<int64_t>(to);
    }
    const int64_t begin = static_cast<int64_t>(piece.offset) / size,
                  end = begin + static_cast<int64_t>(piece.bytes.size()) / size;
    for (int64_t at = begin, next = 0; at < end; at = next) {
      next = std::min(end, (at / row + 1) * row);
      const int64_t to = row_in_model_[at / row];
      if (to < 0) continue;
      const int64_t first = to * row + at % row;
      const at::Tensor here = part_of(model_.tensors[match.target],
                                      {static_cast<int64_t>(match.target), first, first + next - at});
      here.copy_(
          view(piece.bytes.subspan((at - begin) * size, (next - at) * size), here.sizes(), info.dtype));
    }
  }

  const WeightFiles& weights_;
  const Matching& matching_;
  const Targets& model_;
  const Reads reads_;
  std::vector<const Match*> match_of_;  // by source; null: unused
  std::vector<Stretch> stretches_;
  std::vector<int64_t> row_in_model_;  // of a head that grows, by the row in the file; -1: nowhere
  std::unique_ptr<WeightStream> stream_;
};

void check_digest(const Reading& reading, const WeightSource& source) {
  if (source.digest.empty() || reading.digest() == source.digest) return;
  throw bad_input("the weights are damaged: they do not have the digest that is known of them",
                  source.path.string(), "take another checkpoint; this one cannot be trusted");
}

// What one rank knows of the source before it reads its tensors.
struct Source {
  WeightFiles weights;
  Matching matching;
  LoadReport report;

  Source(FileSystem& files, const std::filesystem::path& path, const Targets& model,
         const WarmStartOptions& options, const HeadClasses& classes)
      : weights(files, path),
        matching(match(infos_of(weights), model.targets, options, classes, path.string())),
        report(report_on(matching, weights, model)) {}
};

// What the source lacks is fresh, and the same on all ranks: rank 0's.
void send_fresh(Communicator& communicator, const Targets& model, std::span<const Stretch> loaded) {
  std::vector<bool> is_loaded(model.tensors.size());
  for (const Stretch& stretch : loaded) is_loaded[stretch.target] = true;
  for (size_t i = 0; i < model.tensors.size(); ++i) {
    if (!is_loaded[i] && model.tensors[i].numel() > 0)
      communicator.broadcast(model.tensors[i], 0, "broadcast of what is fresh");
  }
}

// Copies of the parameters in memory, over all ranks.
int64_t count_copies(Communicator& communicator) {
  const at::Tensor copies = at::zeros({1}, at::kLong);
  copies.fill_(static_cast<int64_t>(communicator.fills_shared()));
  communicator.all_reduce(copies, Communicator::Op::kSum, "copies of the weights");
  return copies.item<int64_t>();
}

// Where all ranks share one copy there is nobody to send parameters to, but the others wait: now and then
// they must hear that rank 0 is alive. To wake them for each piece takes the processor from the thread that
// reads.
class Sending {
 public:
  Sending(Communicator& communicator, const Targets& model, bool one_copy)
      : communicator_(communicator), model_(model), one_copy_(one_copy) {}

  void send(const Stretch& stretch) {
    constexpr int64_t kSilence = 64 << 20;  // elements
    if (stretch.begin == stretch.end) return;
    const bool shared = one_copy_ && model_.targets[stretch.target].part == Target::Part::kParameter;
    silent_ += stretch.end - stretch.begin;
    if (shared && silent_ < kSilence) return;
    silent_ = 0;
    communicator_.broadcast(part_of(model_.tensors[stretch.target], stretch), 0, "broadcast of the weights");
  }

 private:
  Communicator& communicator_;
  const Targets& model_;
  bool one_copy_;
  int64_t silent_ = 0;  // elements that nothing was said of
};

// Rank 0 reads; the others learn what comes and in which order, and get it. Where a read fails, the rest of
// what was announced is sent all the same, and then all ranks throw.
void read_and_send(Communicator& communicator, const WeightSource& from, const Source* source,
                   const Targets& model, Copies copies) {
  Sending sending(communicator, model, copies == Copies::kShared && count_copies(communicator) == 1);
  std::unique_ptr<Reading> reading;
  std::string order;
  if (source != nullptr) {
    reading = std::make_unique<Reading>(source->weights, source->matching, model, Reads::kAll);
    const auto& list = reading->stretches();
    order.assign(reinterpret_cast<const char*>(list.data()), list.size() * sizeof(Stretch));
  }
  broadcast_text(communicator, order, 0, "order of the weights");
  std::vector<Stretch> stretches(order.size() / sizeof(Stretch));
  std::memcpy(stretches.data(), order.data(), order.size());
  std::exception_ptr failure;
  const auto read_on = [&] {
    try {
      if (reading && !failure) reading->next();
    } catch (...) {
      failure = std::current_exception();
    }
  };
  for (const Stretch& stretch : stretches) {
    read_on();
    sending.send(stretch);
  }
  read_on();
  send_fresh(communicator, model, stretches);
  together(
      communicator, "reading the weights",
      [&] {
        if (failure) std::rethrow_exception(failure);
        check_digest(*reading, from);
      },
      0);
}

void read_each(Communicator& communicator, const WeightSource& from, const Source& source,
               const Targets& model) {
  std::vector<Stretch> loaded;
  for (const Match& match : source.matching.matches)
    loaded.push_back({static_cast<int64_t>(match.target), 0, 0});
  together(communicator, "reading the weights", [&] {
    const Reads reads = communicator.fills_shared() ? Reads::kAll : Reads::kNotShared;
    Reading reading(source.weights, source.matching, model, reads);
    for (size_t i = 0; i <= reading.stretches().size(); ++i) reading.next();
    if (reads == Reads::kAll) check_digest(reading, from);
  });
  send_fresh(communicator, model, loaded);
}

// Of parameters there may be one physical copy for several ranks, whose bytes need no second look.
void check_copies(Communicator& communicator, const NamedState& state, Copies of) {
  const char* const hint = "the broadcast lost something; start again";
  if (of == Copies::kOneEach) return check_same(communicator, digest_of(state), "weights", hint);
  const int64_t copies = count_copies(communicator);
  NamedState mine{{}, state.frozen, state.buffers};
  std::string digest = digest_of(mine);
  if (copies > 1) {
    // A rank without a copy of its own speaks for the one that it uses.
    digest = digest_of(state);
  }
  check_same(communicator, digest, "weights", hint);
}

std::string list(const char* what, const std::vector<std::string>& names) {
  if (names.empty()) return "";
  std::vector<std::string> some(names.begin(), names.begin() + std::min<size_t>(names.size(), 8));
  if (some.size() < names.size()) some.push_back(std::to_string(names.size() - some.size()) + " more");
  return std::string("; ") + what + ": " + enumerate(some);
}

}  // namespace

std::string LoadReport::text() const {
  char share[64], speed[64] = "";
  std::snprintf(share, sizeof share, "%.1f %% of the parameters loaded", 100 * loaded_share());
  const double megabytes = static_cast<double>(bytes) / 1e6;
  if (seconds > 0 && megabytes >= 1)
    std::snprintf(speed, sizeof speed, ", %.3g MB at %.3g GB/s", megabytes, gb_per_s());
  std::vector<std::string> rules;
  for (const auto& [from, to] : renamed) rules.push_back(from + " as " + to);
  return std::to_string(loaded.size()) + " tensors, " + share + speed + list("renamed", rules) +
         list("resized", resized) + list("converted", converted) + list("fresh", fresh) +
         list("unused", unused);
}

LoadReport load_weights(Communicator& communicator, FileSystem& files, const WeightSource& source,
                        const NamedState& state, const WarmStartOptions& options, const HeadClasses& classes,
                        Copies copies) {
  const auto start = std::chrono::steady_clock::now();
  const Targets model(state);
  const bool each = options.read == WeightReader::kEachNode;
  std::unique_ptr<Source> known;  // on the ranks that read
  together(
      communicator, "looking at the weights",
      [&] {
        known = std::make_unique<Source>(files, source.path, model, options, classes);
        check_floor(known->report, source.path, options);
      },
      each ? -1 : 0);
  each ? read_each(communicator, source, *known, model)
       : read_and_send(communicator, source, known.get(), model, copies);
  check_copies(communicator, state, copies);
  LoadReport report = known ? known->report : LoadReport{};
  report.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  return report;
}

LoadReport plan_load(FileSystem& files, const std::filesystem::path& source, const NamedState& state,
                     const WarmStartOptions& options, const HeadClasses& classes) {
  return Source(files, source, Targets(state), options, classes).report;
}

Carried carried_by_load(FileSystem& files, const std::filesystem::path& path, const NamedState& state,
                        const WarmStartOptions& options, const HeadClasses& classes) {
  const Targets model(state);
  const Source source(files, path, model, options, classes);
  Carried carried;
  for (const Match& match : source.matching.matches) {
    carried[model.targets[match.target].name] = {source.weights.tensors()[match.source].info->name,
                                                 match.rows};
  }
  return carried;
}

}  // namespace rekindle
