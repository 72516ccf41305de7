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

    def train(self, name, *settings, workers):
        directory = self.folder / name
        result = self.run_well(self.job, f"run.directory={directory}", *settings, workers=workers)
        self.assert_says(result, "gradients travel in 3 buckets")   # what crosses their borders is part of the question
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
