# SPDX-License-Identifier: Apache-2.0
"""A run that was killed, stopped or damaged goes on from its last good checkpoint and ends as one that never was.

Runs that are to be hit in the middle have no end of their own: their rate does not depend on the duration, which the
second start then sets."""

import os
import shutil
import signal
import unittest

import numpy

import harness

ENDLESS = "run.duration=100000000ba"
ADAMW = 'optimizer={name="adamw", max_grad_norm=1.0, ema_half_life="5ba"}'

# Jobs with what a run keeps besides weights and moments: settings; the end, where it may not be soon behind the kill;
# and what must be so in the state.json of the checkpoint that it goes on from, and of the last one.
LATER = 2000   # a step that a run that is killed has not come to
KEPT = {
    "averaged": (
        (ADAMW, "schedule.base_lr=0.04", "run.precision=bfloat16", "evaluation.every=5ba", "schedule.decay=plateau",
         "schedule.decay_metric=accuracy", "schedule.decay_patience=2", "schedule.decay_cooldown=1",
         "schedule.decay_factor=0.9", "schedule.warmup_until=validation-accuracy", "schedule.warmup_patience=1",
         "schedule.warmup=40ba"), 0,
        lambda state: (state["averaged"] and state["schedule"]["plateau_factor"] < 1
                       and "warmup_end" in state["schedule"]),
        lambda state: state["averaged"]),
    "trained": (
        ('optimizer={momentum=0.9, ema_half_life="20ba", groups=[{match=["layers.0.*"], unfreeze_at="30ba"}]}',
         "evaluation.weights=trained", "run.precision=float16", "data.path=far.safetensors", "schedule.base_lr=1e-4",
         "checkpoint.gather=true",
         "schedule.warmup_momentum=0.5", "schedule.warmup=50ba", "schedule.warmup_until=noise-scale",
         "schedule.warmup_patience=8", "schedule.decay=inverse-sqrt"), 0,
        lambda state: (not state.get("averaged") and state["loss_scale"]["scale"] < 65536
                       and "warmup_end" in state["schedule"]),
        lambda state: True),
    "by layers": (
        ('optimizer={name="lars", ema_half_life="5ba"}', "schedule.base_lr=2", "schedule.warmup=20ba"), 0,
        lambda state: state["averaged"],
        lambda state: True),
    "sooner": (
        ("schedule.warmup_until=training-loss", "schedule.warmup_bound=1.2", "schedule.warmup=40ba",
         "schedule.warmup_momentum=0.5", "schedule.decay=inverse-sqrt", 'optimizer.max_grad_value=0.05'), 0,
        lambda state: "warmup_end" in state["schedule"],
        lambda state: True),
    "later": (
        (f'optimizer={{momentum=0.9, groups=[{{match=["layers.0.*"], unfreeze_at="{LATER}ba"}}]}}',
         "run.precision=float16", "batch.microbatch=0", "schedule.base_lr=0.2", f"schedule.warmup={LATER + 25}ba",
         "schedule.warmup_until=training-loss", "schedule.warmup_patience=1", f"schedule.warmup_min={LATER}ba",
         "schedule.warmup_momentum=0.5"), LATER + 30,
        lambda state: (state["step"] < LATER and "warmup_end" not in state["schedule"]
                       and state["loss_scale"]["good_steps"] > 0),
        lambda state: "warmup_end" in state["schedule"] and state["loss_scale"]["scale"] != 65536),
}


class Resume(harness.Case):
    def setUp(self):
        super().setUp()
        self.write_data(harness.clusters(500, features=12))
        self.job = self.write_job("""
            [model]
            hidden = [24, 16]
            dropout = 0.2
            [data]
            path = "data.safetensors"
            [batch]
            global = 32
            microbatch = 10
            [optimizer]
            momentum = 0.9
            weight_decay = 1e-3
            [schedule]
            base_lr = 0.05
            warmup = "15ba"
            [evaluation]
            validation = 0.2
            [checkpoint]
            every = "20ba"
            [run]
            directory = "run"
            duration = "200ba"
            log_every = "1ba"
            """)
        self.directory = self.folder / "run"

    def never_stopped(self, end, *settings, workers=2):
        """A run of its own that nobody disturbs, to step `end`."""
        directory = self.folder / "never-stopped"
        self.run_well(self.job, f"run.directory={directory}", f"run.duration={end}ba", *settings, workers=workers)
        return directory

    def checkpoint_behind(self, step):
        """Whether the run has published a checkpoint at `step` or later."""
        return any(event["step"] >= step for event in harness.events(self.directory, "checkpoint"))

    def kill_in_the_middle(self, rank, *settings, start=harness.launch):
        """Kills one rank once there is something to resume from. Returns the result, and the step of the checkpoint."""
        with harness.Live(start(self.job, ENDLESS, *settings, workers=2)) as live:
            live.wait_for(lambda: self.checkpoint_behind(60))
            live.kill_rank(rank)
            result = live.result()
        self.assertEqual(harness.half_written(self.directory), [])
        return result, int(harness.latest(self.directory).name.removeprefix("step-"))

    def resume(self, end, *settings, workers=2):
        result = self.run_well(self.job, f"run.duration={end}ba", *settings, workers=workers)
        self.assertEqual(harness.metrics(self.directory)[-1]["step"], end)
        return result

    def test_killed_worker(self):
        other = 'optimizer={name="adamw"}', "schedule.base_lr=0.005", "model.batch_norm=true"
        lamb = ('optimizer={name="lamb", weight_decay=0.01, groups=[{match=["layers.0.*"], freeze=true}]}',
                "schedule.base_lr=0.01", "schedule.decay=wsd", "schedule.cooldown=1ba")
        for rank, settings in ((1, ()), (0, other), (1, lamb)):
            with self.subTest(rank=rank, settings=settings):
                result, saved = self.kill_in_the_middle(rank, *settings)
                self.assertEqual(result.code, 1, result.text)
                self.assertIn(f"rank {rank} was killed by signal 9", result.last_line)

                resumed = self.resume(saved + 30, *settings)
                self.assert_says(resumed, f"resuming at step {saved}")
                self.assertEqual(harness.events(self.directory, "restart")[-1]["step"], saved)
                undisturbed = self.never_stopped(saved + 30, *settings)
                self.assertEqual(harness.model_bytes(self.directory), harness.model_bytes(undisturbed))
                self.assert_same_steps(harness.steps(self.directory), harness.steps(undisturbed))
            shutil.rmtree(self.directory)
            shutil.rmtree(self.folder / "never-stopped")

    def test_what_else_is_kept(self):
        """Averages, scale of the loss, what ended or will end the warm-up, falls of the rate, what is still frozen."""
        far = harness.clusters(500, features=12)
        self.write_data({"x": far["x"] * 100, "y": far["y"]}, "far.safetensors")   # float16 overflows at first
        for name, (settings, end, when_killed, when_done) in KEPT.items():
            with self.subTest(name):
                self.directory = self.folder / name
                settings = *settings, f"run.directory={self.directory}", "schedule.long_warmup=true"
                _, saved = self.kill_in_the_middle(1, *settings)
                state = self.state_of(self.directory)
                self.assertTrue(when_killed(state), state)
                end = max(end, saved + 30)
                self.assert_says(self.resume(end, *settings), f"resuming at step {saved}")
                self.assertTrue(when_done(self.state_of(self.directory)), self.state_of(self.directory))
                undisturbed = self.never_stopped(end, *settings[:-2], "schedule.long_warmup=true")
                self.assert_same_end(self.directory, undisturbed)
                shutil.rmtree(undisturbed)

    def test_longer_than_it_was(self):
        """A run that was done and is to go on hears of its validation data no more often than one that was longer at
        once: it has the same rates."""
        plateau = ("evaluation.every=6ba", "schedule.decay=plateau", "schedule.decay_metric=accuracy",
                   "schedule.decay_patience=0", "schedule.decay_threshold=0.5", "schedule.decay_factor=0.5")
        self.run_well(self.job, "run.duration=40ba", *plateau, workers=2)
        self.resume(80, *plateau)
        rates = [[event["lr"] for _, event in sorted(harness.steps(directory).items())]
                 for directory in (self.directory, self.never_stopped(80, *plateau))]
        self.assertEqual(*rates)

    def state_of(self, directory):
        return harness.document(harness.latest(directory) / "state.json")

    def assert_same_end(self, ours, theirs):
        """The same steps on the way, and all that is saved at the end, but for what the clock says."""
        self.assert_same_steps(harness.steps(ours), harness.steps(theirs))
        self.assertEqual(harness.model_bytes(ours), harness.model_bytes(theirs))
        moments = [harness.moments(harness.latest(directory)) for directory in (ours, theirs)]
        self.assertEqual(*map(set, moments))
        for name, moment in moments[0].items():
            numpy.testing.assert_array_equal(moment, moments[1][name], name)
        states = [self.state_of(directory) for directory in (ours, theirs)]
        self.assertEqual(*map(harness.without_seconds, states))

    def assert_same_steps(self, ours, theirs):
        numbers = "loss", "lr", "grad_norm", "samples", "epoch"
        last = max(theirs)
        self.assertEqual({step: [ours[step][name] for name in numbers] for step in range(last + 1)},
                         {step: [theirs[step][name] for name in numbers] for step in range(last + 1)})

    def test_killed_worker_without_launcher(self):
        result, saved = self.kill_in_the_middle(0, start=harness.mpirun)
        self.assertNotEqual(result.code, 0, result.text)
        end = saved + 10
        resumed = harness.run(harness.mpirun(self.job, f"run.duration={end}ba", workers=2))
        self.assertEqual(resumed.code, 0, resumed.text)
        self.assertEqual(harness.model_bytes(self.directory), harness.model_bytes(self.never_stopped(end)))

    def test_other_number_of_workers(self):
        settings = "model.dropout=0",   # what it drops depends on the rank
        _, saved = self.kill_in_the_middle(1, *settings)
        self.resume(saved + 20, *settings, workers=3)
        self.resume(saved + 50, *settings, workers=1)
        undisturbed = self.never_stopped(saved + 50, *settings)
        ours, theirs = harness.weights(self.directory), harness.weights(undisturbed)
        self.assertEqual(set(ours), set(theirs))
        for name, tensor in theirs.items():
            numpy.testing.assert_allclose(ours[name], tensor, rtol=1e-3, atol=1e-4, err_msg=name)
        spans = harness.document(harness.latest(self.directory) / "state.json")["worlds"]
        self.assertEqual(spans, [{"from_step": 0, "world": 2}, {"from_step": saved, "world": 3},
                                 {"from_step": saved + 20, "world": 1}])

    def test_stop_on_request(self):
        # mpirun itself passes a TERM on, but leaves its ranks no time to save.
        for start, number in ((harness.launch, signal.SIGTERM), (harness.mpirun, signal.SIGUSR2)):
            with self.subTest(start=start.__name__, signal=number.name):
                with harness.Live(start(self.job, ENDLESS, workers=2)) as live:
                    live.wait_for(lambda: harness.steps(self.directory))
                    live.signal(number)
                    result = live.result()
                self.assertEqual(result.code, 75, result.text)
                self.assertEqual(harness.metrics(self.directory)[-1]["status"], "preempted")
                stopped = harness.metrics(self.directory)[-1]["step"]
                self.assertEqual(harness.latest(self.directory).name, f"step-{stopped:09}")
                self.assertFalse((self.directory / "verdict.json").exists())

                self.resume(stopped + 50)
                undisturbed = self.never_stopped(stopped + 50)
                self.assertEqual(harness.model_bytes(self.directory), harness.model_bytes(undisturbed))
            shutil.rmtree(self.directory)
            shutil.rmtree(self.folder / "never-stopped")

    def test_damaged_checkpoint(self):
        # What a crash right before the end leaves, with a rate that depends on the duration.
        cosine = "schedule.decay=cosine"
        undisturbed = self.never_stopped(200, cosine)
        for name in "model.safetensors", "optimizer-00002-of-00002.safetensors", "manifest.json":
            with self.subTest(file=name):
                shutil.copytree(undisturbed, self.directory, symlinks=True)
                harness.cut_off_behind(self.directory, "step")
                newest = harness.latest(self.directory)
                harness.flip_byte(newest / name)
                result = self.run_well(self.job, cosine, workers=2)
                self.assert_says(result, newest.name, name, "resuming at step 180")
                self.assertEqual(harness.model_bytes(self.directory), harness.model_bytes(undisturbed))
                self.assertEqual(harness.half_written(self.directory), [])
            shutil.rmtree(self.directory)

    def test_nothing_to_resume_from(self):
        """A run that was killed before its first checkpoint begins anew."""
        undisturbed = self.never_stopped(30, "checkpoint.every=1000ba")
        with harness.Live(harness.launch(self.job, ENDLESS, "checkpoint.every=1h", workers=2)) as live:
            live.wait_for(lambda: harness.steps(self.directory))
            live.kill_rank(1)
            self.assertEqual(live.result().code, 1)
        self.resume(30, "checkpoint.every=1000ba")
        self.assertEqual(harness.model_bytes(self.directory), harness.model_bytes(undisturbed))

    def test_same_job_twice(self):
        first = harness.model_bytes(self.never_stopped(200))
        self.run_well(self.job, workers=2)
        self.assertEqual(harness.model_bytes(self.directory), first)
        other = self.folder / "other-seed"
        self.run_well(self.job, f"run.directory={other}", "run.seed=2", workers=2)
        self.assertNotEqual(harness.model_bytes(other), first)

    def test_what_may_change(self):
        self.run_well(self.job, "run.duration=20ba", workers=2)
        self.run_well(self.job, "run.duration=40ba", "run.log_every=5ba", "checkpoint.every=7ba", "checkpoint.keep=2",
                      "checkpoint.verify=false", "evaluation.every=9ba", "run.deadline=1min", workers=2)
        before = sorted(os.walk(self.directory))
        for change in "schedule.base_lr=0.06", "model.dropout=0.1", "evaluation.validation=0.1":
            with self.subTest(change=change):
                refused = self.run_well(self.job, "run.duration=60ba", change, workers=2, code=78)
                self.assert_says(refused, str(self.directory), "another job", "hint:")
                self.assertEqual(sorted(os.walk(self.directory)), before)

    def test_data_that_changed(self):
        self.run_well(self.job, "run.duration=20ba")
        self.write_data(harness.clusters(500, features=12, seed=1))
        refused = self.run_well(self.job, "run.duration=40ba", code=78)
        self.assert_says(refused, "increment 1", "data.safetensors", "hint:")


if __name__ == "__main__":
    unittest.main()
