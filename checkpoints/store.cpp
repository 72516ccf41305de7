// SPDX-License-Identifier: Apache-2.0
#include "checkpoints/store.h"

#include <algorithm>
#include <cctype>
#include <functional>
#include <utility>

#include "core/digest.h"
#include "core/error.h"
#include "core/names.h"

namespace rekindle {
namespace {

using Path = std::filesystem::path;

constexpr std::string_view kTemporaryMark = ".tmp-", kAsideMark = ".aside-";

// The step in a name such as ".step-000001200.tmp-ATTEMPT", or -1.
int64_t hidden_step(const std::string& name, std::string_view mark) {
  const size_t end = name.find(mark);
  if (end == std::string::npos || !name.starts_with('.')) return -1;
  return names::step_in(name.substr(1, end - 1));
}

void check_attempt(const std::string& attempt) {
  const auto is_allowed = [](unsigned char c) { return std::isalnum(c) || c == '-' || c == '_'; };
  if (attempt.empty() || !std::ranges::all_of(attempt, is_allowed)) {
    throw Error("an attempt may have letters, digits, - and _, not '" + attempt + "'");
  }
}

}  // namespace

CheckpointStore::CheckpointStore(FileSystem& files, Path directory, CheckpointOptions options)
    : files_(files), directory_(std::move(directory)), options_(options) {}

Path CheckpointStore::temporary(int64_t step, const std::string& attempt) const {
  check_attempt(attempt);
  return directory_ / names::step_temporary(step, attempt);
}

Path CheckpointStore::prepare(int64_t step, const std::string& attempt) {
  const Path path = temporary(step, attempt);
  files_.create_directories(directory_);
  for (const std::string& name : files_.list(directory_)) {
    const int64_t old = hidden_step(name, kTemporaryMark);
    // One of this attempt may still be written to; only our own of this step is begun anew.
    if (old >= 0 && (old == step || name != names::step_temporary(old, attempt)))
      files_.remove_all(directory_ / name);
  }
  files_.create_directory(path);
  return path;
}

Published CheckpointStore::publish(int64_t step, const std::string& attempt, std::vector<FileRecord> records,
                                   bool best) {
  const Path from = temporary(step, attempt), to = directory_ / names::step(step);
  Published published{to, "", 0, ""};
  try {
    const Manifest manifest(std::move(records), from.string());
    seal(from, manifest);
    published.digest = manifest.digest();
    published.bytes = manifest.bytes() + manifest.text().size();
    if (files_.exists(to)) put_aside(step, attempt);
    files_.rename(from, to);
  } catch (const Error&) {
    discard(step, attempt);
    take_back(step, attempt);
    throw;
  }
  files_.sync_directory(directory_);
  replace_link(files_, directory_ / names::kLatest, names::step(step));
  if (best) replace_link(files_, directory_ / names::kBest, names::step(step));
  try {
    prune(step, attempt);
  } catch (const Error& error) {
    published.complaint = std::string("older checkpoints could not be removed: ") + error.what();
  }
  return published;
}

void CheckpointStore::seal(const Path& temporary, const Manifest& manifest) {
  const Path path = temporary / names::kManifest;
  write_synced(files_, path, manifest.text());
  files_.sync_directory(temporary);
  if (!options_.verify) return;
  std::vector<std::string> damage = find_damage(files_, temporary, manifest, Verify::kAll, true);
  if (digest_of_file(files_, path, true) != digest_of(manifest.text())) damage.push_back(names::kManifest);
  if (damage.empty()) return;
  throw Error("the checkpoint does not read back from the disk as it was written: " + damage.front(),
              {temporary.string(), "it is discarded; check the disk", ExitCode::kFailed});
}

void CheckpointStore::discard(int64_t step, const std::string& attempt) noexcept {
  try {
    files_.remove_all(temporary(step, attempt));
  } catch (const Error&) {
  }
}

std::optional<Checkpoint> CheckpointStore::newest_valid(std::vector<std::string>* complaints) {
  if (!files_.exists(directory_)) return std::nullopt;
  std::vector<std::pair<int64_t, std::string>> finals, asides;
  for (const std::string& name : files_.list(directory_)) {
    if (const int64_t step = names::step_in(name); step >= 0) finals.emplace_back(step, name);
    if (const int64_t step = hidden_step(name, kAsideMark); step >= 0) asides.emplace_back(step, name);
  }
  for (auto* candidates : {&finals, &asides}) {
    std::ranges::sort(*candidates, std::ranges::greater());
    for (const auto& [step, name] : *candidates) {
      try {
        return open_checkpoint(files_, directory_ / name);
      } catch (const Error& error) {
        if (complaints) complaints->push_back(error.what());
      }
    }
  }
  return std::nullopt;
}

void CheckpointStore::mend_links(int64_t latest, std::optional<int64_t> best) {
  const auto mend = [&](const char* link, int64_t step) {
    const std::string target = names::step(step);
    if (!files_.exists(directory_ / target) || files_.read_link(directory_ / link) == target) return;
    replace_link(files_, directory_ / link, target);
  };
  mend(names::kLatest, latest);
  if (best) mend(names::kBest, *best);
}

std::optional<int64_t> CheckpointStore::drop_from(int64_t step) {
  if (!files_.exists(directory_)) return std::nullopt;
  const std::vector<int64_t> all = generations();
  const auto first = std::ranges::lower_bound(all, step);
  const auto is_whole = [&](int64_t generation) {
    try {
      open_checkpoint(files_, directory_ / names::step(generation));
      return true;
    } catch (const Error&) {
      return false;
    }
  };
  auto before = first;
  while (before != all.begin() && !is_whole(*std::prev(before))) --before;
  if (before == all.begin()) return std::nullopt;
  replace_link(files_, directory_ / names::kLatest, names::step(*std::prev(before)));
  for (auto dropped = before; dropped != all.end(); ++dropped) put_aside(*dropped, "dropped");
  if (!files_.exists(directory_ / names::kBest)) files_.remove_all(directory_ / names::kBest);
  files_.sync_directory(directory_);
  for (auto dropped = before; dropped != all.end(); ++dropped)
    files_.remove_all(directory_ / names::step_aside(*dropped, "dropped"));
  return *std::prev(before);
}

// Under a hidden name it can be removed piece by piece, or replaced, without half of it ever standing as
// step-N.
void CheckpointStore::put_aside(int64_t step, const std::string& attempt) {
  const Path aside = directory_ / names::step_aside(step, attempt);
  files_.remove_all(aside);
  files_.rename(directory_ / names::step(step), aside);
}

void CheckpointStore::take_back(int64_t step, const std::string& attempt) noexcept {
  const Path aside = directory_ / names::step_aside(step, attempt), place = directory_ / names::step(step);
  try {
    if (files_.exists(aside) && !files_.exists(place)) files_.rename(aside, place);
  } catch (const Error&) {  // newest_valid() looks at what is aside, too
  }
}

// Later generations than the newest were damaged when the run fell back behind them. They count for nothing
// and are put aside; they go, like everything aside, once a generation stands at their step or behind it.
void CheckpointStore::prune(int64_t newest, const std::string& attempt) {
  const std::set<int64_t> keep = kept(newest);
  for (const int64_t step : generations()) {
    if (!keep.contains(step)) put_aside(step, attempt);
  }
  files_.sync_directory(directory_);
  for (const std::string& name : files_.list(directory_)) {
    const int64_t step = hidden_step(name, kAsideMark);
    if (step >= 0 && step <= newest) files_.remove_all(directory_ / name);
  }
}

std::set<int64_t> CheckpointStore::kept(int64_t newest) {
  std::set<int64_t> keep = protected_;
  for (const char* link : {names::kLatest, names::kBest}) {
    if (const auto target = files_.read_link(directory_ / link)) keep.insert(names::step_in(*target));
  }
  std::vector<int64_t> steps = generations();
  std::erase_if(steps, [&](int64_t step) { return step > newest; });
  const auto count = std::min(steps.size(), static_cast<size_t>(std::max(2, options_.keep)));
  keep.insert(steps.end() - static_cast<std::ptrdiff_t>(count), steps.end());
  // Told from what stands there, so that it needs no memory: the one that was kept for a stretch begins the
  // count.
  for (int64_t stretch = 0; const int64_t step : steps) {
    if (options_.keep_steps == 0 || step / options_.keep_steps <= stretch) continue;
    stretch = step / options_.keep_steps;
    keep.insert(step);
  }
  return keep;
}

std::vector<int64_t> CheckpointStore::generations() {
  std::vector<int64_t> steps;
  for (const std::string& name : files_.list(directory_)) {
    if (const int64_t step = names::step_in(name); step >= 0) steps.push_back(step);
  }
  std::ranges::sort(steps);
  return steps;
}

}  // namespace rekindle
