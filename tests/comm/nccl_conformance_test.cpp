// SPDX-License-Identifier: Apache-2.0
#include <gmock/gmock.h>

#include "conformance.h"
#include "nccl_support.h"

namespace rekindle {
namespace {

using testing::IsEmpty;

struct Machine {
  int world;
  bool has_windows = true, registers = true;
  int polls = 2;
};

class NcclConformance : public testing::TestWithParam<Machine> {};

TEST_P(NcclConformance, DoesWhatEveryCommunicatorDoes) {
  const Machine machine = GetParam();
  for (const auto& [name, check] : conformance_checks()) {
    SCOPED_TRACE(name);
    FakeNccl fake(machine.world);
    fake.set_polls(machine.polls);
    fake.set_windows(machine.has_windows);
    CommOptions options;
    options.deadline = std::chrono::seconds(60);
    options.register_memory = machine.registers;
    EXPECT_NO_THROW(
        run_on_fake(fake, machine.world, options, [&](NcclCommunicator& communicator, OnFake& strict) {
          check(strict);
          fake.caller_ran(communicator.rank());
          communicator.close();
        }));
    EXPECT_THAT(fake.complaints(), IsEmpty());
  }
}

INSTANTIATE_TEST_SUITE_P(Worlds, NcclConformance,
                         testing::Values(Machine{1}, Machine{2}, Machine{3}, Machine{4}, Machine{5},
                                         Machine{8}));
INSTANTIATE_TEST_SUITE_P(Kinds, NcclConformance,
                         testing::Values(Machine{3, false}, Machine{3, true, false},
                                         Machine{3, true, true, 0}));

}  // namespace
}  // namespace rekindle
