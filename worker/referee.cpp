// SPDX-License-Identifier: Apache-2.0
#include "worker/referee.h"

#include <torch/utils.h>

#include <algorithm>
#include <cmath>
#include <set>

#include "core/error.h"
#include "core/log.h"
#include "core/names.h"
#include "warmstart/load_weights.h"
#include "worker/line.h"
#include "worker/model_card.h"
#include "worker/setup.h"

namespace rekindle {
namespace {

using nlohmann::json;

}  // namespace

json to_json(const ParentFacts& facts) {
  Lineage lineage;  // for what both have in common
  lineage.increments = facts.increments;
  lineage.origin = facts.origin;
  lineage.held_out_test = facts.held_out_test;
  lineage.job = facts.digest;
  return {{"digest", facts.digest},
          {"path", facts.path},
          {"weights", {facts.source.path.string(), facts.source.digest}},
          {"card", facts.card ? to_json(*facts.card) : json(nullptr)},
          {"gone", facts.gone},
          {"state", facts.state ? to_json(*facts.state) : json(nullptr)},
          {"lineage", facts.exists() ? to_json(lineage) : json(nullptr)}};
}

namespace {

ParentFacts parent_facts_from(const json& text) {
  ParentFacts facts;
  facts.digest = text["digest"];
  if (!facts.exists()) return facts;
  facts.path = text["path"];
  facts.gone = text["gone"];
  facts.source = {std::string(text["weights"][0]), text["weights"][1]};
  if (!text["card"].is_null()) facts.card = model_card_from_json(text["card"], "the parent's model.json");
  if (text.contains("state") && !text["state"].is_null())
    facts.state = train_state_from_json(text["state"], "the parent's state.json");
  const Lineage lineage = lineage_from_json(text["lineage"], "the parent's lineage.json");
  facts.increments = lineage.increments;
  facts.origin = lineage.origin;
  facts.held_out_test = lineage.held_out_test;
  return facts;
}

ParentFacts facts_of(const Parent& parent) {
  ParentFacts facts;
  facts.digest = parent.digest;
  facts.source = parent.source;
  facts.path = parent.source.path.string();
  facts.origin = parent.origin;
  if (!parent.checkpoint) {
    log_warning("nothing is known of what " + facts.path +
                " was trained on: it is taken not to know the test data");
    return facts;
  }
  facts.path = parent.checkpoint->path.string();
  facts.card = parent.checkpoint->card;
  facts.state = parent.checkpoint->state;
  const Lineage& lineage = parent.checkpoint->lineage;
  facts.increments = lineage.increments;
  facts.origin = lineage.origin;
  facts.held_out_test = lineage.held_out_test;
  return facts;
}

// The parent that an unfinished run started with.
ParentFacts recorded_parent(FileSystem& files, const std::filesystem::path& environment,
                            bool with_optimizer) {
  const json recorded = json::parse(read_text(files, environment))["parent"];
  if (recorded.is_null()) return {};
  ParentFacts facts = parent_facts_from(recorded);
  std::string why = "it is no longer what it was";
  try {
    if (facts_of(*find_parent(files, facts.path, "", with_optimizer)).digest == facts.digest) return facts;
  } catch (const Error& error) {
    why = error.summary();
  }
  // A run that has a checkpoint of its own needs it no more, but to be compared with.
  const std::filesystem::path own = environment.parent_path() / names::kCheckpoints / names::kLatest;
  if (!files.exists(own)) {
    throw bad_input("the parent that this run started from is gone: " + why, facts.path,
                    "move the run directory away to start over");
  }
  log_warning("the parent that this run started from is gone (" + why +
              "): the run goes on without a comparison");
  facts.gone = true;
  return facts;
}

ParentFacts find_the_parent(FileSystem& files, const Job& job, const std::filesystem::path& recorded) {
  const bool with_optimizer = job.warm_start.reads_optimizer();
  if (!recorded.empty() && files.exists(recorded)) return recorded_parent(files, recorded, with_optimizer);
  if (job.warm_start.from.empty()) return {};
  const auto parent = find_parent(files, job.warm_start.from, job.run.line, with_optimizer);
  return parent ? facts_of(*parent) : ParentFacts{};
}

}  // namespace

ParentFacts find_parent_together(Communicator& communicator, FileSystem& files, const Job& job,
                                 const std::filesystem::path& recorded) {
  std::string text;
  together(
      communicator, "looking for the parent",
      [&] { text = to_json(find_the_parent(files, job, recorded)).dump(); }, 0);
  broadcast_text(communicator, text, 0, "facts of the parent");
  return parent_facts_from(json::parse(text));
}

HeadClasses ParentFacts::classes(const std::vector<std::string>& of_child) const {
  if (!card || card->classes == of_child) return {};
  return {card->classes, of_child};
}

Referee::Referee(const Run& run, ParentFacts parent) : run_(run), parent_(std::move(parent)) {
  // Only what no ancestor was trained on can tell parent and child apart. Data that no ancestor had is new to
  // all.
  std::set<std::string> known;
  for (const IncrementRecord& record : parent_.increments) known.insert(record.digest);
  std::set<std::string> here;
  for (const Increment& increment : run.data.increments()) here.insert(increment.digest);
  const auto gone =
      std::count_if(parent_.increments.begin(), parent_.increments.end(),
                    [&](const IncrementRecord& record) { return !here.contains(record.digest); });
  if (gone > 0 && run.is_root()) {
    log_warning(std::to_string(gone) + " of the " + std::to_string(parent_.increments.size()) +
                " increments that the parent was trained on are not in this job: it may forget them");
  }
  for (const int64_t index : run.split.test) {
    const auto& increments = run.data.increments();
    const auto increment = std::find_if(increments.begin(), increments.end(),
                                        [&](const Increment& candidate) { return index < candidate.end; });
    if (!known.contains(increment->digest)) {
      test_new_.push_back(index);
    } else if (split_key(run.data, index) < parent_.held_out_test) {
      test_old_.push_back(index);
    }
  }
}

Scores Referee::score(Model& model, const std::vector<int64_t>& indices, const char* set, const char* who,
                      const Progress& progress) {
  Scores scores = evaluate(run_.communicator, model, run_.data, indices, run_.evaluate_options());
  if (scores.samples() > 0) log_scores(run_, set, who, scores, progress);
  return scores;
}

// A model of its own, built as the parent's card says, and gone when it has been heard. Weights that have no
// card are taken by the rules of the job; what those leave out is as fresh as in the child.
std::shared_ptr<Model> Referee::load_parent() {
  std::shared_ptr<Model> model;
  NamedState state;
  together(run_.communicator, "building the parent", [&] {
    // What a bare file lacks is as fresh as in a child that starts from it.
    torch::manual_seed(run_.job.run.seed);
    const DataShape here = run_.data.shape();
    const auto classes = parent_.card ? static_cast<int64_t>(parent_.card->classes.size()) : here.classes();
    model = make_model(parent_.card ? options_from(*parent_.card) : run_.job.model, {here.sample(), classes});
    model->to(run_.communicator.device());
    state = state_of(*model);
  });
  WarmStartOptions options;
  if (!parent_.card) {
    options.rename = run_.job.warm_start.rename;
    options.include = run_.job.warm_start.include;
    options.exclude = run_.job.warm_start.exclude;
  }
  options.min_loaded = 0;
  load_weights(run_.communicator, run_.files, parent_.source, state, options, {}, Copies::kOneEach);
  return model;
}

void Referee::hear_parent() {
  const bool nothing_held_out = test_old_.empty() && test_new_.empty() && run_.split.validation.empty();
  if (!parent_.exists() || parent_.gone || nothing_held_out) return;
  const GivesMemoryBack when_it_is_gone;
  const std::shared_ptr<Model> model = load_parent();
  const Progress start;
  old_ = score(*model, test_old_, "test_old", "parent", start);
  new_ = score(*model, test_new_, "test_new", "parent", start);
  validation_ = score(*model, run_.split.validation, "validation", "parent", start);
}

void Referee::check_start(const std::optional<Scores>& validation, const LoadReport& loaded) {
  const WarmStartOptions& options = run_.job.warm_start;
  const bool as_it_is = options.include.empty() && options.exclude.empty() &&
                        options.weights == Carry::kLoad && options.batch_norm == Carry::kLoad &&
                        parent_.classes(run_.data.classes()).child.empty() &&
                        (options.ema == Carry::kReset ||
                         parent_.state.value_or(TrainState{}).averaged == run_.job.evaluation.averaged);
  if (!parent_.exists() || !as_it_is) return;
  if (validation) return compare_start(*validation, *validation_, loaded);
  if (!test_old_.empty()) compare_start(score(run_.model, test_old_, "test_old", "child", {}), *old_, loaded);
  if (!test_new_.empty()) compare_start(score(run_.model, test_new_, "test_new", "child", {}), *new_, loaded);
  if (test_old_.empty() && test_new_.empty() && run_.is_root())
    log_info("that the child starts where its parent stood is not proved: no sample is held out");
}

void Referee::compare_start(const Scores& child, const Scores& parent, const LoadReport& loaded) const {
  if (!run_.is_root()) return;
  const double difference = child.mean_loss() - parent.mean_loss();
  if (child.correct == parent.correct && std::abs(difference) <= 1e-6 * (1 + parent.mean_loss())) {
    log_info("at step 0 the child scores as its parent does");
  } else {
    log_warning("at step 0 the child does not score as its parent does: loss differs by " +
                std::to_string(difference) + "; loaded: " + loaded.text() +
                ". Look for what is fresh or renamed, and at the model's settings");
  }
}

Verdict Referee::judge(const Progress& progress, const std::string& child_digest,
                       const std::filesystem::path& checkpoint) {
  const Scores old_child = score(run_.model, test_old_, "test_old", "child", progress);
  const Scores new_child = score(run_.model, test_new_, "test_new", "child", progress);
  Verdict verdict = decide_on(old_child, new_child);
  verdict.parent = parent_.digest;
  verdict.child = child_digest;
  together(
      run_.communicator, "verdict",
      [&] {
        promote_child(verdict, checkpoint);
        replace_file(run_.files, run_.directory / names::kVerdict, to_json(verdict).dump(2) + "\n");
        run_.metrics.write("verdict", to_json(verdict));
      },
      0);
  return verdict;
}

Verdict Referee::decide_on(const Scores& old_child, const Scores& new_child) const {
  const VerdictOptions options = run_.job.verdict.value_or(VerdictOptions{});
  const auto heard = [&](const std::optional<Scores>& parent) {
    return parent ? parent->of(options.metric) : std::vector<double>();
  };
  const Comparison old_data = compare(heard(old_), old_child.of(options.metric));
  const Comparison new_data = compare(heard(new_), new_child.of(options.metric));
  Verdict verdict = decide(options, old_data, new_data);
  const bool parent_counts = old_ && new_ && !parent_.gone;
  if (!is_finite(old_child, new_child)) {
    verdict.verdict = "kept-parent";
    verdict.reason = "the loss of the child is not finite";
    verdict.promote = false;
  } else if (parent_counts && !is_finite(*old_, *new_)) {
    verdict.verdict = "promoted";
    verdict.reason = "the loss of the parent is not finite";
    verdict.promote = true;
  } else if (!parent_.exists()) {
    verdict.verdict = "promoted";
    verdict.reason = "first";
    verdict.promote = true;
  } else if (!run_.job.verdict || run_.job.split.test == 0) {
    verdict.verdict = "promoted";
    verdict.reason = "no gate";
    verdict.promote = true;
  } else if (const std::string reason = why_unknown(); !reason.empty()) {
    verdict.verdict = "inconclusive";
    verdict.reason = reason;
    verdict.promote = options.promote_if_inconclusive;
  }
  return verdict;
}

// Whatever the metric is: a model without a loss is broken.
bool Referee::is_finite(const Scores& old_scores, const Scores& new_scores) const {
  return std::isfinite(old_scores.mean_loss()) && std::isfinite(new_scores.mean_loss());
}

// Without samples that both can be measured on a gate says nothing, and may not be taken for passed.
std::string Referee::why_unknown() const {
  if (parent_.gone) return "the parent is gone, and was not heard";
  if (!parent_.increments.empty() && test_old_.empty()) {
    return "forgetting cannot be measured: no sample of the parent's increments is in this job and held out "
           "by all its "
           "ancestors";
  }
  return test_old_.empty() && test_new_.empty() ? "no sample is held out for the test" : "";
}

void Referee::promote_child(Verdict& verdict, const std::filesystem::path& checkpoint) {
  if (run_.job.run.line.empty() || !verdict.promote) {
    verdict.promote = false;  // outside a line there is nothing that serves
    return;
  }
  const Checkpoint child = open_checkpoint(run_.files, checkpoint, Verify::kDocuments);
  if (promote(run_.files, run_.job.run.line, child, parent_.digest)) return;
  verdict.verdict = "kept-parent";
  verdict.reason = "the line now serves another checkpoint than the one this run was compared with";
  verdict.promote = false;
}

}  // namespace rekindle
