// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "warmstart/parent.h"
#include "worker/run.h"
#include "worker/verdict.h"

namespace rekindle {

// What all ranks know of the model that a child is compared with.
struct ParentFacts {
  std::string digest;                       // empty: there is no parent
  std::string path;                         // of the checkpoint, or of the file where it is a bare one
  WeightSource source;                      // of its weights; read on rank 0 alone
  std::optional<ModelCard> card;            // none for weights from elsewhere
  std::optional<TrainState> state;          // likewise
  std::vector<IncrementRecord> increments;  // that it or what it started from was trained on
  Origin origin;                            // of the line's first ancestor, where that came from elsewhere
  double held_out_test = 1;  // Lineage::held_out_test; 1: nothing is known to have been trained on

  bool gone = false;  // an unfinished run goes on without it; what else is known was recorded

  bool exists() const { return !digest.empty(); }

  // For a child whose data have classes that the parent does not know.
  HeadClasses classes(const std::vector<std::string>& of_child) const;
};

nlohmann::json to_json(const ParentFacts& facts);  // as environment.json keeps it

// Collective: rank 0 finds the parent and tells the others. It is the one that the job names, or the one that
// an unfinished run started with, whatever is promoted by now: `recorded` is that run's environment.json, or
// empty.
ParentFacts find_parent_together(Communicator& communicator, FileSystem& files, const Job& job,
                                 const std::filesystem::path& recorded);

// Compares parent and child: the parent is evaluated first, the child last, on the same samples; the test
// samples are read for this alone. All calls are collective.
class Referee {
 public:
  Referee(const Run& run, ParentFacts parent);

  // Before training. Evaluates the parent on old and new test data and on the validation data.
  void hear_parent();

  // At step 0 of a child that took the parent's weights as they are: it must score as the parent does, on the
  // validation data, or where nothing is held out for that on the test data. Where it does not, the log says
  // what differs. `loaded` is rank 0's report.
  void check_start(const std::optional<Scores>& validation, const LoadReport& loaded);

  // After training: evaluates the child, decides, promotes in a line, writes verdict.json.
  Verdict judge(const Progress& progress, const std::string& child_digest,
                const std::filesystem::path& checkpoint);

 private:
  Scores score(Model& model, const std::vector<int64_t>& indices, const char* set, const char* who,
               const Progress& progress);
  std::shared_ptr<Model> load_parent();
  std::string why_unknown() const;
  bool is_finite(const Scores& old_scores, const Scores& new_scores) const;
  Verdict decide_on(const Scores& old_child, const Scores& new_child) const;
  void compare_start(const Scores& child, const Scores& parent, const LoadReport& loaded) const;
  void promote_child(Verdict& verdict, const std::filesystem::path& checkpoint);

  const Run& run_;
  ParentFacts parent_;
  std::vector<int64_t> test_old_, test_new_;
  std::optional<Scores> old_, new_, validation_;  // the parent's
};

}  // namespace rekindle
