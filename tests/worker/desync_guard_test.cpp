// SPDX-License-Identifier: Apache-2.0
#include "worker/desync_guard.h"

#include <ATen/core/grad_mode.h>
#include <gmock/gmock.h>

#include <torch/nn/modules/linear.h>

#include <mutex>

#include "comm/flat_parameters.h"
#include "comm/thread_communicator.h"
#include "core/error.h"
#include "tests/data/files.h"
#include "tests/support/own_copies.h"
#include "tests/support/temp_directory.h"
#include "worker/model_card.h"
#include "worker/trainer.h"

namespace rekindle {
namespace {

using testing::AllOf;
using testing::Each;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::SizeIs;

// What one rank holds: an MLP with batch-norm, a frozen tensor, and parameters in the communicator's memory.
struct Held {
  std::shared_ptr<Model> model;
  NamedState state;
  std::unique_ptr<FlatParameters> parameters;

  explicit Held(Communicator& communicator)
      : model(make_model({"mlp", {{"hidden", std::vector<int64_t>{8, 8}}, {"batch_norm", true}}}, {{5}, 3})) {
    for (auto& item : model->named_parameters()) {
      item.value().data().fill_(0.5);
      if (item.key() == "layers.2.bias") item.value().requires_grad_(false);
    }
    state = state_of(*model);
    parameters = std::make_unique<FlatParameters>(communicator, state.parameters);
  }

  void change(const std::string& name) const {
    const at::NoGradGuard no_gradient;
    for (const auto* part : {&state.parameters, &state.frozen, &state.buffers}) {
      for (const auto& [of, tensor] : *part) {
        if (of == name) tensor.view(-1)[-1].add_(1);
      }
    }
  }
};

using Do = std::function<void(Held&, int rank)>;

// What each rank hears of the check after `spoil`; every rank must have heard the same. `Seen` is how the
// ranks take their communicator.
template <typename Seen>
std::string told(int world, const Do& spoil) {
  std::mutex mutex;
  std::vector<std::string> errors;
  run_as_threads(world, {}, [&](Communicator& shared) {
    std::conditional_t<std::is_same_v<Seen, Communicator>, Communicator&, Seen> communicator(shared);
    Held held(communicator);
    DesyncGuard guard(communicator, held.state);
    guard.check(1);
    communicator.barrier("all have checked");
    spoil(held, communicator.rank());
    communicator.barrier("spoilt");
    std::string error;
    try {
      guard.check(200);
    } catch (const AgreedError& agreed) {
      error = agreed.what();
    }
    const std::lock_guard lock(mutex);
    errors.push_back(error);
  });
  EXPECT_THAT(errors, AllOf(SizeIs(world), Each(errors.front())));
  return errors.front();
}

Do change(const std::string& name, int of_rank) {
  return [=](Held& held, int rank) {
    if (rank == of_rank) held.change(name);
  };
}

TEST(DesyncGuard, NamesTheTensorAndTheRank) {
  for (const int world : {2, 3, 5}) {
    EXPECT_THAT(told<OwnCopies>(world, change("layers.1.weight", 1)),
                AllOf(HasSubstr("after step 200: 'layers.1.weight' of rank 1 is not that of rank 0 (1 of "),
                      HasSubstr("at rank 1\n")));
  }
}

TEST(DesyncGuard, MostAreRight) {
  EXPECT_THAT(told<OwnCopies>(4, change("layers.0.bias", 0)),
              HasSubstr("'layers.0.bias' of rank 0 is not that of rank 1 "));
  const auto two_of_five = [](Held& held, int rank) {
    if (rank == 1 || rank == 4) held.change("layers.0.bias");
    if (rank == 2) held.change("layers.1.bias");
  };
  EXPECT_THAT(told<OwnCopies>(5, two_of_five),
              HasSubstr("of rank 1 and rank 4 is not that of rank 0 (2 of "));
}

TEST(DesyncGuard, WhatIsSharedIsEverybodys) {
  EXPECT_THAT(told<Communicator>(3, change("layers.1.weight", 1)), IsEmpty());  // there is one copy
  EXPECT_THAT(told<Communicator>(3, change("norms.0.running_mean", 2)),
              HasSubstr("'norms.0.running_mean' of rank 2 is not that of rank 0"));
  EXPECT_THAT(told<Communicator>(3, change("norms.1.num_batches_tracked", 2)),
              HasSubstr("'norms.1.num_batches_tracked'"));
  EXPECT_THAT(told<Communicator>(3, change("layers.2.bias", 2)),
              HasSubstr("'layers.2.bias' of rank 2"));  // frozen
}

// Nodes of two ranks, of which the first has the copy.
class TwoANode : public OwnCopies {
 public:
  using OwnCopies::OwnCopies;
  bool fills_shared() const override { return rank() % 2 == 0; }
};

TEST(DesyncGuard, OneRankSpeaksForTheCopyOfItsNode) {
  EXPECT_THAT(told<TwoANode>(4, change("layers.0.bias", 2)),
              HasSubstr("'layers.0.bias' of rank 2 is not that of rank 0"));
  EXPECT_THAT(told<TwoANode>(4, change("layers.0.bias", 3)), IsEmpty());  // not the node's
  EXPECT_THAT(told<TwoANode>(4, change("norms.0.running_var", 3)), HasSubstr("of rank 3 is not"));
}

TEST(DesyncGuard, EqualModelsAndASingleRankPass) {
  const auto everywhere = [](Held& held, int) {
    held.change("layers.1.weight");
    held.change("norms.0.running_var");
  };
  EXPECT_THAT(told<OwnCopies>(3, everywhere), IsEmpty());
  EXPECT_THAT(told<OwnCopies>(1, everywhere), IsEmpty());
}

// An MLP with a tensor that nobody is to change, and that rank 1 does change.
class Drifting : public Model {
 public:
  explicit Drifting(int rank) : rank_(rank), linear_(register_module("linear", torch::nn::Linear(2, 2))) {
    scale_ = register_parameter("scale", at::ones({1}), /*requires_grad=*/false);
  }
  torch::Tensor forward(const Batch& batch) override {
    if (rank_ == 1 && ++calls_ == 2) scale_.add_(1e-3);
    return linear_(batch.x) * scale_;
  }

 private:
  int rank_, calls_ = 0;
  torch::nn::Linear linear_;
  torch::Tensor scale_;
};

// What the training of such a model on two ranks ends with; empty where it comes to its end.
std::string end_of_training(const Length& check_every, const Length& save_every) {
  const TempDirectory directory;
  const auto path = directory.path() / "data";
  write_safetensors(path, {24, 2}, std::vector<float>(48, 1), std::vector<int64_t>(24, 0));
  Job job;
  job.data = {.kind = "safetensors", .increments = {{.images = {}, .labels = {}, .path = path, .range = {}}}};
  job.batch.global = 4;
  job.schedule.base_lr = 0.1;
  job.run.duration = {1, Unit::kEpochs};
  job.run.check_every = check_every;
  job.checkpoint.every = save_every;
  const Dataset data(posix_file_system(), job.data);
  const Split parts = split(data, job.split);
  try {
    run_as_threads(2, {}, [&](Communicator& communicator) {
      const auto model = std::make_shared<Drifting>(communicator.rank());
      const NamedState state = state_of(*model);
      const FlatParameters parameters(communicator, state.parameters);
      MetricsLog metrics;
      const Run run{
          job,   communicator, posix_file_system(), directory.path(), data, parts, *model, parameters,
          state, metrics};
      Trainer(run, {}, {}).train();
    });
  } catch (const AgreedError& error) {
    return error.what();
  }
  return "";
}

TEST(DesyncGuard, TheTrainerAsksEverySoManyStepsAndBeforeItSaves) {
  const Length never{1000, Unit::kBatches};
  EXPECT_THAT(end_of_training({3, Unit::kBatches}, never),
              HasSubstr("after step 3: 'scale' of rank 1 is not"));
  EXPECT_THAT(end_of_training(never, {4, Unit::kBatches}), HasSubstr("after step 4: "));
  EXPECT_THAT(end_of_training(never, never), HasSubstr("after step 6: "));  // the last is always saved
  EXPECT_THAT(end_of_training({}, {1, Unit::kBatches}), IsEmpty());
}

}  // namespace
}  // namespace rekindle
