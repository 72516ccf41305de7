# SPDX-License-Identifier: Apache-2.0
"""The same job gives the same model, to the bit, on any number of workers."""

import json
import unittest

import harness

WORLDS = 1, 2, 3, 4, 5, 8
LAMB = ('optimizer={name="lamb", weight_decay=0.01, max_grad_norm=1.0, groups=[{match=["layers.2.*"], lr_factor=3.0}]}',
        "schedule.base_lr=0.01")
LARS = 'optimizer={name="lars", weight_decay=0.01, trust_coefficient=0.1, layer_decay=0.8}', "schedule.base_lr=0.5"
ADAMW = 'optimizer={name="adamw", max_grad_norm=1.0}', "schedule.base_lr=0.003"
ENDLESS = "run.duration=100000000ba"

# What a run measures decides its rates, and what is kept beside its weights: a small model is enough for that.
SMALL = "model.hidden=[24, 16]", "data.path=small.safetensors"
MEASURED = {
    "averaged": ('optimizer={name="adamw", max_grad_norm=1.0, ema_half_life="5ba"}', "schedule.base_lr=0.02",
                 "run.precision=bfloat16", "evaluation.every=3ba", "schedule.warmup_until=training-loss",
                 "schedule.warmup_bound=2.35", "schedule.warmup=12ba", "schedule.decay=plateau",
                 "schedule.decay_metric=accuracy", "schedule.decay_factor=0.9", "schedule.decay_patience=1"),
    "trained": ('optimizer={name="lamb", ema_half_life="5ba", groups=[{match=["layers.0.*"], unfreeze_at="8ba"}]}',
                "evaluation.weights=trained", "schedule.base_lr=0.01", "run.precision=float16",
                "model.batch_norm=false",
                "schedule.warmup_until=noise-scale", "schedule.warmup_patience=3", "schedule.warmup=44ba",
                "schedule.warmup_momentum=0.5", "schedule.decay=inverse-sqrt"),
}


class AnyWorld(harness.Case):
    def setUp(self):
        super().setUp()
        # 9.2 million parameters: one bucket of 1 MiB, then two of up to 25 MiB. The last batch of an epoch is
        # shorter than two samples for each of eight virtual workers.
        self.write_data(harness.clusters(203, classes=10, features=784, spread=3))
        self.job = self.write_job("""
            [model]
            hidden = [1024, 4096, 1024]
            dropout = 0.3
            batch_norm = true
            [data]
            path = "data.safetensors"
            [batch]
            global = 64
            [optimizer]
            momentum = 0.9
            weight_decay = 1e-3
            max_grad_norm = 0.5
            [schedule]
            base_lr = 0.05
            warmup = "3ba"
            decay = "cosine"
            [evaluation]
            every = "3ba"
            validation = 0.1
            [checkpoint]
            every = "2ba"
            [run]
            line = "unused"
            duration = "7ba"
            reproducible = "any-world"
            log_every = "1ba"
            """)

    def train(self, name, *settings, workers, buckets="3 buckets"):
        directory = self.folder / name
        result = self.run_well(self.job, f"run.directory={directory}", *settings, workers=workers)
        # What crosses their borders is part of the question.
        self.assert_says(result, f"gradients travel in {buckets}")
        return directory

    def what_counts(self, directory):
        """The model to the byte, and what was said on the way, but for what the clock says."""
        events = [{key: value for key, value in event.items() if key not in ("time", "samples_per_second", "seconds")}
                  for event in harness.metrics(directory) if event["event"] in ("step", "eval")]
        return harness.model_bytes(directory), events

    def test_fast_differs(self):
        """What the other tests show is not so anyhow."""
        fast = "run.reproducible=fast", "model.batch_norm=false", "model.dropout=0.0"
        models = {harness.model_bytes(self.train(f"fast-{workers}", *fast, workers=workers)) for workers in (1, 2, 3)}
        self.assertEqual(len(models), 3)

    def test_worlds(self):
        for name, settings in (("sgd", ()), ("adamw", ADAMW), ("micro", ("batch.microbatch=3",)), ("lamb", LAMB),
                               ("lars", LARS)):
            worlds = WORLDS if name in ("sgd", "adamw") else (1, 3)
            runs = {workers: self.what_counts(self.train(f"{name}-{workers}", *settings, workers=workers))
                    for workers in worlds}
            for workers in worlds[1:]:
                with self.subTest(name, workers=workers):
                    self.assertEqual(runs[workers][1], runs[1][1])
                    self.assertTrue(runs[workers][0] == runs[1][0], "weights differ")

    def test_what_was_measured(self):
        """On one worker, on two, and killed on three and ended on two."""
        small = harness.clusters(203, classes=10, features=784, spread=3)
        self.write_data({"x": small["x"] * 100, "y": small["y"]}, "small.safetensors")   # float16 overflows at first
        for name, settings in MEASURED.items():
            with self.subTest(name):
                settings = *SMALL, *settings, "schedule.long_warmup=true"
                killed = self.folder / f"killed-{name}"
                endless = harness.launch(self.job, f"run.directory={killed}", ENDLESS, *settings, workers=3)
                with harness.Live(endless) as live:
                    live.wait_for(lambda: any(e["step"] >= 40 for e in harness.events(killed, "checkpoint")))
                    live.kill_rank(2)
                    self.assertEqual(live.result().code, 1)
                end = f"run.duration={int(harness.latest(killed).name.removeprefix('step-')) + 5}ba"
                ended = self.whole(self.train(killed.name, *settings, end, workers=2, buckets="1 bucket"))
                state = ended["state"]
                self.assertIn("warmup_end", state["schedule"])
                if name == "averaged":
                    self.assertTrue(state["averaged"])
                    self.assertLess(state["schedule"]["plateau_factor"], 1)
                else:
                    self.assertLess(state["loss_scale"]["scale"], 65536)
                for workers in 1, 2:
                    alone = self.whole(self.train(f"{name}-{workers}", *settings, end, workers=workers,
                                                  buckets="1 bucket"))
                    self.assertEqual(ended["state"], alone["state"])
                    self.assertEqual(ended["steps"], alone["steps"])
                    self.assertTrue(ended["model"] == alone["model"])
                    self.assertEqual(ended["moments"], alone["moments"])

    def whole(self, directory):
        """All that a run ends with, but for what the clock says and the numbers of workers."""
        latest = harness.latest(directory)
        steps = {step: {key: value for key, value in event.items() if key not in ("time", "samples_per_second")}
                 for step, event in harness.steps(directory).items()}
        state = harness.document(latest / "state.json")
        return {"model": harness.model_bytes(directory), "steps": steps,
                "state": harness.without_seconds({key: value for key, value in state.items() if key != "worlds"}),
                "moments": {name: moment.tobytes() for name, moment in harness.moments(latest).items()}}

    def test_statistics_move_once_a_step(self):
        """What batch-norm saw in four passes is what it saw in one: their mean, not one after the other."""
        settings = "run.reproducible=fast", "model.dropout=0.0", "schedule.warmup=1ba", "run.duration=1ba"
        means = []
        for passes in 1, 4:
            directory = self.train(f"passes-{passes}", *settings, f"batch.microbatch={64 // passes}", workers=1)
            means.append(harness.weights(directory)["norms.0.running_mean"])
        self.assertGreater(abs(means[0]).max(), 0.01)
        self.assertLess(abs(means[1] - means[0]).max(), 1e-5)

    def test_two_runs(self):
        for mode in "same-world", "any-world":
            first, second = (self.what_counts(self.train(f"{mode}-{i}", f"run.reproducible={mode}", workers=2))
                             for i in range(2))
            self.assertEqual(first[1], second[1])
            self.assertTrue(first[0] == second[0])

    def test_resumed_on_another_machine(self):
        """Where the machine computes otherwise the run would no longer be the same one."""
        directory = self.train("moved", workers=1)
        path = directory / "environment.json"
        environment = json.loads(path.read_text())
        environment["arithmetic"] = environment["arithmetic"].replace("oneDNN", "anotherDNN").replace("Intel", "Other")
        path.write_text(json.dumps(environment))
        result = harness.run(harness.launch(self.job, f"run.directory={directory}", "run.duration=9ba"))
        self.assertEqual(result.code, 78, result.text)
        self.assert_says(result, "this run began on ", "it goes on where processors and libraries are the same")

    def test_killed_and_resumed_on_other_numbers(self):
        """Killed on three workers, again on two, and ended on five: as never killed, on one."""
        directory = self.folder / "killed"
        for killed, (workers, saved) in enumerate(((3, 2), (2, 6))):
            with harness.Live(harness.launch(self.job, f"run.directory={directory}", ENDLESS, *ADAMW,
                                             "schedule.decay=constant", workers=workers)) as live:
                live.wait_for(lambda: any(e["step"] >= saved for e in harness.events(directory, "checkpoint")))
                live.kill_rank(workers - 1)
                self.assertEqual(live.result().code, 1)
            at = int(harness.latest(directory).name.removeprefix("step-"))
            self.assertGreaterEqual(at, saved)
        end = at + 3
        settings = *ADAMW, "schedule.decay=constant", f"run.duration={end}ba"
        self.train("killed", *settings, workers=5)
        alone = self.train("alone", *settings, workers=1)
        self.assertTrue(harness.model_bytes(directory) == harness.model_bytes(alone))
        steps, never = harness.steps(directory), harness.steps(alone)
        self.assertEqual([steps[i]["loss"] for i in range(end)], [never[i]["loss"] for i in range(end)])

    def test_ranks_that_compute_otherwise(self):
        """One rank without the processor's vector instructions: its bits would be others."""
        job = [harness.WORKER, self.job, f"run.directory={self.folder / 'mixed'}"]
        mixed = ["mpirun", "--oversubscribe", "--bind-to", "none", "-n", "1", *job,
                 ":", "-n", "1", "env", "ATEN_CPU_CAPABILITY=default", *job]
        result = harness.run(mixed)
        self.assertEqual(result.code, 78, result.text)
        self.assert_says(result, "rank 1", "instructions", "any-world")
        result = harness.run([word for part in mixed for word in
                              ([part, "run.reproducible=fast"] if str(part).startswith("run.directory") else [part])])
        self.assertEqual(result.code, 0, result.text)

    def test_refused(self):
        for setting, word in (("run.duration=1min", "no clock decides"), ("batch.virtual_workers=6", "power of two"),
                              ("batch.virtual_workers=2", "virtual")):
            with self.subTest(setting):
                result = self.run_well(self.job, f"run.directory={self.folder / 'refused'}", setting, workers=3, code=78)
                self.assertIn(word, result.text)


if __name__ == "__main__":
    unittest.main()
