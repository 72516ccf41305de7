// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include "checkpoints/train_state.h"
#include "data/dataset.h"
#include "job/job.h"
#include "models/model.h"
#include "schedules/schedule.h"
#include "warmstart/named_state.h"

namespace rekindle {

// Parts that a step's samples are cut in, each a virtual worker's: as the job says for any-world, else one a
// rank. Throws bad_input where there are fewer than ranks.
int virtual_workers(const Job& job, int world);

// The fewest samples that a virtual worker may have: batch-norm needs two to take a variance of.
int64_t least_samples(Model& model);

// The model of a job, with what its groups freeze frozen. Throws bad_input for a group that has no parameter.
std::shared_ptr<Model> make_trainee(const Job& job, const DataShape& shape);

// Throws bad_input for a model that cannot be trained here: parameters of a type or layout that we do not
// sum or save, a forward pass that writes to its own weights, as far as that can be seen, or data that a
// built-in model does not take.
void check_model(const Job& job, const Dataset& data, Model& model, const NamedState& state);

// The job as `world` workers have it: with batch.per_worker, what that makes the global batch.
Job for_world(Job job, int world);

// The steps of a run that trains on so many samples.
Timeline timeline_of(const Job& job, int64_t train_samples);
BatchRamp ramp_of(const Job& job, int64_t train_samples);

// The schedule of a job, with what its optimizer asks for; and the optimizer's options, scaled with it.
Schedule schedule_of(const Job& job, const Timeline& timeline, const ScheduleState& state = {});
OptimizerOptions optimizer_of(const Job& job, const Schedule& schedule);

// What the schedule of a new run knows of its parent's. Throws bad_input where it is to go on with one that
// is not there: `parent` is null for weights from elsewhere.
ScheduleState starting_state(const Job& job, bool has_parent, const TrainState* parent);

// Where a checkpoint says that its run's schedule is.
ScheduleState schedule_state_of(const TrainState& saved);

// Of averaged weights, in samples; 0: there are none. Throws bad_input for a share of a run by the clock.
double half_life_of(const Job& job, const Timeline& timeline);

// Whether more than half of the run is warm-up, and the job does not say that this is meant.
bool warms_up_long(const Job& job, const Schedule& schedule);

// What only job, model and data together show, looked at before anything is written. Throws bad_input for a
// schedule that does not fit the data, for fewer virtual workers than ranks, and for a batch or a micro-batch
// of a single sample where batch-norm needs two.
void check_fits(const Job& job, Model& model, int64_t train_samples, int world,
                const ScheduleState& state = {});

// Of a new run that is to measure noise: throws bad_input where a step has a single pass.
void check_noise(const Job& job, Model& model, int64_t train_samples, int world);

// As check_fits(), of a run that goes on, in the middle of an epoch, with a batch that did not begin it.
void check_rest(const Job& job, Model& model, int64_t train_samples, int world, const Progress& progress);

}  // namespace rekindle
