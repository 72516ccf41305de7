// SPDX-License-Identifier: Apache-2.0
#include "worker/desync_guard.h"

#include <ATen/core/grad_mode.h>
#include <gmock/gmock.h>

#include <mutex>

#include "comm/flat_parameters.h"
#include "comm/thread_communicator.h"
#include "core/error.h"
#include "tests/support/own_copies.h"
#include "worker/model_card.h"

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

// What each rank hears of the check after `spoil`; every rank must have heard the same.
std::string told(int world, bool own_copies, const Do& spoil) {
  std::mutex mutex;
  std::vector<std::string> errors;
  run_as_threads(world, {}, [&](Communicator& shared) {
    OwnCopies own(shared);
    Communicator& communicator = own_copies ? own : shared;
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
    EXPECT_THAT(told(world, true, change("layers.1.weight", 1)),
                AllOf(HasSubstr("after step 200: 'layers.1.weight' of rank 1 is not that of rank 0 (1 of "),
                      HasSubstr("at rank 1\n")));
  }
}

TEST(DesyncGuard, MostAreRight) {
  EXPECT_THAT(told(4, true, change("layers.0.bias", 0)),
              HasSubstr("'layers.0.bias' of rank 0 is not that of rank 1 "));
  const auto two_of_five = [](Held& held, int rank) {
    if (rank == 1 || rank == 4) held.change("layers.0.bias");
    if (rank == 2) held.change("layers.1.bias");
  };
  EXPECT_THAT(told(5, true, two_of_five), HasSubstr("of rank 1 and rank 4 is not that of rank 0 (2 of "));
}

TEST(DesyncGuard, WhatIsSharedIsEverybodys) {
  EXPECT_THAT(told(3, false, change("layers.1.weight", 1)), IsEmpty());  // there is one copy
  EXPECT_THAT(told(3, false, change("norms.0.running_mean", 2)),
              HasSubstr("'norms.0.running_mean' of rank 2 is not that of rank 0"));
  EXPECT_THAT(told(3, false, change("norms.1.num_batches_tracked", 2)),
              HasSubstr("'norms.1.num_batches_tracked'"));
  EXPECT_THAT(told(3, false, change("layers.2.bias", 2)), HasSubstr("'layers.2.bias' of rank 2"));  // frozen
}

TEST(DesyncGuard, EqualModelsAndASingleRankPass) {
  const auto everywhere = [](Held& held, int) {
    held.change("layers.1.weight");
    held.change("norms.0.running_var");
  };
  EXPECT_THAT(told(3, true, everywhere), IsEmpty());
  EXPECT_THAT(told(1, true, everywhere), IsEmpty());
}

}  // namespace
}  // namespace rekindle
