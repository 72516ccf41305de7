# SPDX-License-Identifier: Apache-2.0
"""What scripts rely on: metrics.jsonl, the run directory, exit codes and the ways to start a run."""

import shlex
import shutil
import subprocess
import time
import tomllib
import unittest

import harness

STEP_FIELDS = {"event", "step", "samples", "epoch", "loss", "lr", "grad_norm", "samples_per_second", "time"}


class Contract(harness.Case):
    def setUp(self):
        super().setUp()
        self.write_data(harness.clusters(500))
        self.job = self.write_job("""
            [model]
            hidden = [16]
            [data]
            path = "data.safetensors"
            [batch]
            global = 32
            [optimizer]
            momentum = 0.9
            [schedule]
            base_lr = 0.1
            [evaluation]
            validation = 0.1
            test = 0.2
            every = "20ba"
            [checkpoint]
            every = "25ba"
            [verdict]
            [run]
            directory = "run"
            duration = "50ba"
            log_every = "7ba"
            """)
        self.directory = self.folder / "run"

    # metrics.jsonl

    def test_metrics(self):
        began = time.time()
        self.run_well(self.job, workers=2)
        log = harness.metrics(self.directory)
        self.assertEqual([log[0]["event"], log[-1]["event"], log[-1]["status"]], ["start", "end", "done"])
        self.assertLessEqual({event["event"] for event in log},
                             {"start", "warm_start", "step", "eval", "checkpoint", "restart", "verdict", "end"})
        self.assertEqual(log[0]["workers"], 2)

        held_out = {event["set"]: event["n"] for event in harness.events(self.directory, "eval")}
        trained_on = 500 - held_out["validation"] - held_out["test_new"]
        steps_per_epoch = -(-trained_on // 32)
        steps = harness.events(self.directory, "step")
        self.assertEqual([event["step"] for event in steps], [0, 6, 13, 20, 27, 34, 41, 48, 49])
        for event in steps:
            self.assertEqual(set(event), STEP_FIELDS)
            epochs, rest = divmod(event["step"], steps_per_epoch)
            self.assertEqual(event["samples"], epochs * trained_on + rest * 32)
            self.assertAlmostEqual(event["epoch"], event["samples"] / trained_on, places=12)
            self.assertEqual(event["lr"], 0.1)   # to the bit
            self.assertGreater(event["loss"], 0)
            self.assertGreater(event["grad_norm"], 0)
            self.assertGreater(event["samples_per_second"], 0)
        times = [event["time"] for event in steps]
        self.assertEqual(times, sorted(times))
        self.assertTrue(began <= times[0] and times[-1] <= time.time(), times)
        self.assertEqual(log[-1]["step"], 50)

    def test_evaluations(self):
        self.run_well(self.job, workers=2)
        evaluations = harness.events(self.directory, "eval")
        self.assertEqual([(event["set"], event["step"]) for event in evaluations],
                         [("validation", step) for step in (0, 20, 40, 50)] + [("test_new", 50)])
        for event in evaluations:
            self.assertTrue(0 <= event["metrics"]["accuracy"] <= 1)
            self.assertGreater(event["metrics"]["loss"], 0)
            # A fraction of whole samples: each was counted once.
            right = event["metrics"]["accuracy"] * event["n"]
            self.assertAlmostEqual(right, round(right), places=9)
        self.assertGreater(evaluations[-1]["metrics"]["accuracy"], 0.9)
        alone = self.folder / "alone"
        self.run_well(self.job, f"run.directory={alone}")
        for ours, theirs in zip(evaluations, harness.events(alone, "eval"), strict=True):
            self.assertEqual([ours["set"], ours["n"]], [theirs["set"], theirs["n"]])
            self.assertAlmostEqual(ours["metrics"]["loss"], theirs["metrics"]["loss"], places=4)

    def test_checkpoints(self):
        self.run_well(self.job, "checkpoint.every=10ba", "checkpoint.keep=2", workers=2)
        saved = harness.events(self.directory, "checkpoint")
        self.assertEqual([event["step"] for event in saved], [10, 20, 30, 40, 50])
        kept = sorted(path.name for path in (self.directory / "checkpoints").iterdir())
        best = (self.directory / "checkpoints" / "best").readlink().name
        self.assertEqual(kept, sorted({"best", "latest", "step-000000040", "step-000000050", best}))
        for event in saved:
            self.assertRegex(event["path"], r"^checkpoints/step-0000000\d0$")
            self.assertGreater(event["stall_ms"], 0)
        newest = self.directory / saved[-1]["path"]
        self.assertEqual(harness.latest(self.directory), newest)
        self.assertEqual(saved[-1]["bytes"], sum(file.stat().st_size for file in newest.iterdir()))
        self.assertEqual({file.name for file in newest.iterdir()},
                         {"model.safetensors", "state.json", "lineage.json", "model.json", "manifest.json",
                          "optimizer-00001-of-00002.safetensors", "optimizer-00002-of-00002.safetensors"})
        self.assertEqual(saved[-1]["digest"], harness.document(newest / "manifest.json")["digest"])

    def test_restart(self):
        self.run_well(self.job, "run.duration=20ba", workers=2)
        harness.cut_off_behind(self.directory, "step")
        with open(self.directory / "metrics.jsonl", "a") as file:
            file.write('{"event":"step","st')   # as a kill may leave it
        self.run_well(self.job, "run.log_every=10ba", workers=2)
        log = harness.metrics(self.directory)
        self.assertEqual([log[0]["event"], log[-1]["event"]], ["start", "end"])
        kinds = [event["event"] for event in log]
        self.assertEqual([kinds.count(kind) for kind in ("start", "restart", "end")], [1, 1, 1])
        self.assertEqual(log[kinds.index("restart")]["step"], 20)
        self.assertEqual([event["step"] for event in harness.events(self.directory, "step")],
                         [0, 6, 13, 19, 20, 29, 39, 49])

    def test_longer_than_before(self):
        """More of the same: a run that is done goes on where its duration has grown, and nothing happens where not."""
        self.run_well(self.job, "run.duration=30ba", workers=2)
        self.run_well(self.job, workers=2)
        in_one_go = self.folder / "in-one-go"
        self.run_well(self.job, f"run.directory={in_one_go}", workers=2)
        self.assertEqual(harness.model_bytes(self.directory), harness.model_bytes(in_one_go))
        before = (self.directory / "metrics.jsonl").read_bytes()
        result = self.run_well(self.job, workers=2)
        self.assert_says(result, "this run is finished")
        self.assertEqual((self.directory / "metrics.jsonl").read_bytes(), before)

    # Where a run lies.

    def test_run_directory(self):
        self.run_well(self.job, workers=2)
        for name in ("job.resolved.toml", "environment.json", "metrics.jsonl", "verdict.json", "logs/rank-0.log",
                     "logs/rank-1.log"):
            self.assertTrue((self.directory / name).is_file(), name)
        self.assertEqual((self.directory / "checkpoints" / "latest").readlink().name, "step-000000050")
        harness.document(self.directory / "environment.json")

    def test_resolved_job(self):
        """It is the same job, wherever it is read from."""
        self.run_well(self.job, "schedule.base_lr=0.05", "model.hidden=[12, 9]", workers=2)
        elsewhere = self.folder / "elsewhere" / "deeper"
        elsewhere.mkdir(parents=True)
        shutil.copy(self.directory / "job.resolved.toml", elsewhere / "again.toml")
        again = self.folder / "again"
        result = harness.run([harness.LAUNCHER, "run", "again.toml", "-n", "2", "--worker", harness.WORKER,
                              f"run.directory={again}"], cwd=elsewhere)
        self.assertEqual(result.code, 0, result.text)
        self.assertEqual(harness.model_bytes(again), harness.model_bytes(self.directory))
        self.assertEqual(harness.metrics(again)[0]["job"], harness.metrics(self.directory)[0]["job"])
        first, second = (tomllib.loads((path / "job.resolved.toml").read_text()) for path in (self.directory, again))
        self.assertEqual([first["schedule"]["base_lr"], first["model"]["hidden"]], [0.05, [12, 9]])
        self.assertEqual(second["run"].pop("directory"), str(again))
        self.assertEqual(first["run"].pop("directory"), str(self.directory))
        self.assertEqual(first, second)

    def test_stable_bytes(self):
        """Weights that are equal are equal files, whatever the run is called and whenever it was."""
        for directory in "a", "longer-name":
            self.run_well(self.job, f"run.directory={directory}", workers=2)
        self.assertEqual(harness.model_bytes(self.folder / "a"), harness.model_bytes(self.folder / "longer-name"))

    # Ways to start.

    def test_without_launcher_and_without_mpirun(self):
        """Bare workers, one alone among them, end with the same model as with the launcher."""
        for workers, command in ((1, [harness.WORKER, self.job]), (2, harness.mpirun(self.job, workers=2))):
            bare, launched = self.folder / f"bare-{workers}", self.folder / f"launched-{workers}"
            result = harness.run([*command, f"run.directory={bare}"])
            self.assertEqual(result.code, 0, result.text)
            self.assertEqual(harness.metrics(bare)[0]["workers"], workers)
            self.run_well(self.job, f"run.directory={launched}", workers=workers)
            self.assertEqual(harness.model_bytes(bare), harness.model_bytes(launched))

    def test_paths_start_from_the_job_file(self):
        elsewhere = self.folder / "elsewhere"
        elsewhere.mkdir()
        self.run_well("../job.toml", workers=2, cwd=elsewhere)
        self.assertTrue((self.directory / "verdict.json").is_file())
        self.assertEqual(list(elsewhere.iterdir()), [])

    def test_workers_of_the_job(self):
        result = harness.run([harness.LAUNCHER, "run", self.job, "--worker", harness.WORKER, "run.workers=3"])
        self.assertEqual(result.code, 0, result.text)
        self.assertEqual(harness.metrics(self.directory)[0]["workers"], 3)

    def test_dry_run(self):
        result = harness.run([*harness.launch(self.job, "run.duration=10ba", workers=2), "--dry-run"])
        self.assertEqual(result.code, 0, result.text)
        self.assertFalse(self.directory.exists())
        subprocess.run(["sh", "-c", result.text], check=True, capture_output=True, timeout=harness.PATIENCE)
        log = harness.metrics(self.directory)
        self.assertEqual([log[0]["workers"], log[-1]["step"]], [2, 10])
        wrong = harness.run([*harness.launch(self.job, "run.duration=10"), "--dry-run"])
        self.assertEqual(wrong.code, 78, wrong.text)

    # Exit codes.

    def test_exit_code_of_the_verdict(self):
        def exit_code(*settings, code):
            self.run_well(self.job, "run.line=line", *settings, workers=2, code=code)
            return harness.document(harness.runs(self.folder / "line")[-1] / "verdict.json")["verdict"]

        self.assertEqual(exit_code("--exit-code", code=0), "promoted")
        untrained = "warm_start.from=promoted", "warm_start.strategy=cold", "schedule.base_lr=1e-9"
        self.assertEqual(exit_code(*untrained, "--exit-code", code=3), "kept-parent")
        self.assertEqual(exit_code(*untrained, code=0), "kept-parent")

    def test_usage(self):
        for command in ([harness.LAUNCHER], [harness.LAUNCHER, "train", self.job], [harness.LAUNCHER, "run"],
                        [harness.LAUNCHER, "run", self.job, "-n", "0"], [harness.WORKER],
                        [harness.LAUNCHER, "run", self.job, "--wrker", "x"], [harness.WORKER, "--verbose", self.job]):
            with self.subTest(command=shlex.join(map(str, command))):
                result = harness.run(command)
                self.assertEqual(result.code, 64, result.text)
                self.assert_says(result, "hint:")
        self.assertFalse(self.directory.exists())


if __name__ == "__main__":
    unittest.main()
