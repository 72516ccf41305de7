# SPDX-License-Identifier: Apache-2.0
"""The commands that look and change nothing: plan, inspect, verify, lineage, diff."""

import json
import shutil
import os
import unittest

import numpy
from safetensors.numpy import load_file, save_file

import harness
import warm_start_test


class Look(warm_start_test.Line):
    def setUp(self):
        super().setUp()
        self.day1 = self.train_day_1()
        self.train_day_2("schedule.base_lr=0.05")
        self.day2 = self.newest()

    def rekindle(self, *arguments, code=0, environment=None):
        result = harness.run([harness.LAUNCHER, *arguments], self.folder, environment)
        self.assertEqual(result.code, code, result.text)
        return result.text

    def json(self, *arguments, code=0, environment=None):
        return json.loads(self.rekindle(*arguments, "--json", code=code, environment=environment))

    def plan(self, *arguments, code=0, worker=harness.WORKER):
        """Without any mpirun on the PATH."""
        bare = {key: value for key, value in os.environ.items() if not key.startswith("OMPI_")} | {"PATH": "/bin"}
        command = [harness.LAUNCHER, "plan", self.job, "--worker", worker, *arguments]
        result = harness.run(command, self.folder, bare)
        self.assertEqual(result.code, code, result.text)
        return result.text


class Inspect(Look):
    def test_a_checkpoint_by_all_its_names(self):
        answers = [self.json("inspect", path) for path in (self.line, self.day2, harness.latest(self.day2))]
        self.assertEqual(answers[0], answers[1])
        self.assertEqual(answers[1], answers[2])
        answer = answers[0]
        self.assertEqual(answer["digest"], self.digest(self.served()))
        self.assertEqual({tensor["name"]: tuple(tensor["shape"]) for tensor in answer["tensors"]}, warm_start_test.SHAPES)
        self.assertEqual(answer["lineage"]["parent"], self.digest(harness.latest(self.day1)))
        self.assertEqual(answer["model"]["options"]["hidden"], [24, 16])
        text = self.rekindle("inspect", self.line)
        for words in answer["digest"], "layers.0.weight", "24 x 8", "increment", "mlp":
            self.assertIn(words, text)

    def test_bare_weights(self):
        answer = self.json("inspect", self.served() / "model.safetensors")
        self.assertEqual(len(answer["tensors"]), 6)

    def test_nothing_there(self):
        self.assertIn("there is nothing", self.rekindle("inspect", self.folder / "nowhere", code=78))
        self.assertIn("no line, run, checkpoint or model", self.rekindle("inspect", self.folder, code=78))


class Verify(Look):
    def test_whole(self):
        for path, least in ((self.line, 4), (self.day1, 2), (self.served(), 1)):
            answer = self.json("verify", path)
            self.assertTrue(all(entry["ok"] for entry in answer))
            self.assertGreaterEqual(len(answer), least)

    def test_every_file_is_read(self):
        for file in sorted(self.served().iterdir()):
            with self.subTest(file=file.name):
                content = file.read_bytes()
                harness.flip_byte(file, len(content) * 2 // 3)
                answer = self.json("verify", self.line, code=1)
                damaged = [entry["path"] for entry in answer if not entry["ok"]]
                self.assertEqual([os.path.realpath(path) for path in damaged], [str(self.served())])
                self.assertIn(file.name, json.dumps(answer))
                self.rekindle("verify", self.served(), code=1)
                file.write_bytes(content)
        self.rekindle("verify", self.line)

    def test_a_checkpoint_without_its_manifest_is_damaged(self):
        (self.served() / "manifest.json").unlink()
        for path in self.served(), self.day2:
            self.rekindle("verify", path, code=1)
        self.rekindle("inspect", self.served(), code=78)

    def test_where_there_is_none(self):
        self.rekindle("verify", self.folder / "nowhere", code=78)
        self.rekindle("verify", self.served() / "model.safetensors", code=78)


class Lineage(Look):
    def test_the_tree(self):
        inside = os.path.relpath(self.day1, self.folder)   # where the command is started
        (self.day1 / "verdict.json").write_text("{")
        self.assertIn("unreadable verdict", self.rekindle("lineage", inside))
        for path in self.line, self.day1, harness.latest(self.day2), inside, self.line / "promoted":
            first, second = self.json("lineage", path)
            self.assertEqual([first["run"], second["run"]], [self.day1.name, self.day2.name])
            self.assertEqual(first["parent"], "")
            self.assertEqual(second["parent"], first["digest"])
            self.assertEqual([first["serves"], second["serves"]], [False, True])
            self.assertEqual([len(node["increments"]) for node in (first, second)], [1, 2])
            self.assertEqual(second["verdict"], "promoted")
        text = self.rekindle("lineage", self.line)
        self.assertRegex(text, rf"{self.day1.name}.*\n└─ .*{self.day2.name}.*<- serves")

    def test_a_parent_from_elsewhere(self):
        directory = self.folder / "alone" / "run"
        directory.parent.mkdir()
        self.run_well(self.job, f"warm_start.from={self.line}", f"run.directory={directory}", "run.duration=20ba")
        self.assertIn("(elsewhere)", self.rekindle("lineage", directory))
        taken = self.folder / "taken-out"
        shutil.copytree(self.served(), taken)
        text = self.rekindle("lineage", taken)
        self.assertIn("(elsewhere)", text)
        self.assertIn(self.digest(taken)[:12], text)
        self.rekindle("lineage", self.folder / "nowhere", code=78)


class Diff(Look):
    def test_job_data_and_tensors(self):
        answer = self.json("diff", self.day1, self.day2)
        self.assertEqual(answer["job"]["schedule.base_lr"], ["0.1", "0.05"])
        self.assertIn("data.increments", answer["job"])
        self.assertNotIn("optimizer.momentum", answer["job"])
        self.assertEqual(len(answer["data"]["only_b"]), 1)
        a, b = harness.weights(self.day1), harness.weights(self.day2)
        changed = {tensor["name"]: tensor for tensor in answer["tensors"]["changed"]}
        self.assertEqual(set(changed), set(a))
        for name, tensor in changed.items():
            for key, value in (("norm_a", a[name]), ("norm_b", b[name]), ("distance", a[name].astype(float) - b[name])):
                self.assertAlmostEqual(tensor[key], float(numpy.linalg.norm(value.astype(float))), places=9)
        self.assertIn("schedule.base_lr", self.rekindle("diff", self.day1, self.day2))

    def test_a_model_and_itself(self):
        answer = self.json("diff", self.served(), self.served())
        self.assertEqual([answer["job"], answer["tensors"]["changed"], answer["tensors"]["same"]], [{}, [], 6])

    def test_types_and_shapes(self):
        tensors = load_file(self.served() / "model.safetensors")
        other = {name: tensor.astype(numpy.float16) for name, tensor in tensors.items() if not name.endswith("2.bias")}
        other["layers.0.bias"] = numpy.zeros(3, numpy.float32)
        save_file(other, self.folder / "other.safetensors")
        answer = self.json("diff", self.served(), self.folder / "other.safetensors")["tensors"]
        changed = {tensor["name"]: tensor for tensor in answer["changed"]}
        self.assertEqual(answer["only_a"], ["layers.2.bias"])
        self.assertEqual(changed["layers.0.bias"]["shape_b"], [3])
        halved = changed["layers.0.weight"]
        self.assertEqual(halved["dtype_b"], "F16")
        exact = tensors["layers.0.weight"].astype(numpy.float64)
        expected = numpy.linalg.norm(exact - exact.astype(numpy.float16).astype(numpy.float64))
        self.assertAlmostEqual(halved["distance"], float(expected), places=9)


class Plan(Look):
    def test_what_a_run_would_be(self):
        rows = json.loads(self.plan("--workers", "1,2,7", "--json", "--schedule"))
        self.assertEqual([row["workers"] for row in rows], [1, 2, 7])
        row = rows[0]
        self.assertEqual([row["global_batch"], row["accumulation"], row["peak_lr"]], [32, 1, 0.05])
        steps = harness.steps(self.train_again(*self.logged()))
        self.assertEqual(row["steps"], len(steps))
        for step, samples, lr in row["schedule"]:
            self.assertEqual([samples, lr], [steps[step]["samples"], steps[step]["lr"]])
        self.assertEqual(rows[0]["schedule"], rows[2]["schedule"])
        self.assertIn("warm-up steps", self.plan("--workers", "1,64"))

    def logged(self):
        return "run.log_every=1ba", "checkpoint.every=10ep"

    def train_again(self, *settings):
        directory = self.folder / "again"
        self.run_well(self.job, f"warm_start.from={self.line}", f"run.directory={directory}", *settings)
        return directory

    def test_what_would_be_loaded(self):
        load = json.loads(self.plan("--json"))[0]["warm_start"]
        self.assertEqual([load["loaded_share"], load["enough"]], [1, True])
        self.assertEqual(set(load["loaded"]), set(warm_start_test.SHAPES))
        text = self.plan("warm_start.exclude=[\"layers.0.*\"]", code=78)
        for words in "too little would be loaded", "fresh", "layers.0.weight":
            self.assertIn(words, text)

    def test_passes(self):
        row = json.loads(self.plan("--json", "batch.microbatch=5"))[0]
        self.assertEqual(row["accumulation"], 7)
        self.assertIn("a step is an epoch", self.plan("batch.global=100000"))

    def test_how_it_is_trained(self):
        """What does not decay, and the rates of layers."""
        spared = [f"{part}.{layer}.bias" for part in ("layers",) for layer in range(3)]
        row = json.loads(self.plan("--json", "optimizer.weight_decay=0.1", "optimizer.layer_decay=0.5"))[0]["optimizer"]
        self.assertEqual(row["no_decay"], spared)
        self.assertEqual([layer["lr_factor"] for layer in row["layers"]], [0.25, 0.5, 1])
        self.assertEqual(row["layers"][1]["parameters"], ["layers.1.weight", "layers.1.bias"])
        text = self.plan("optimizer.weight_decay=0.1", "optimizer.layer_decay=0.5")
        self.assertRegex(text, "no weight decay +layers.0.bias, layers.1.bias, layers.2.bias")
        self.assertRegex(text, "rate x 0.25 +layers.0.weight, layers.0.bias")
        group = 'optimizer.groups=[{match=["layers.1.*"], weight_decay=0.1}]'
        self.assertIn("no weight decay", self.plan(group))
        self.assertIn("not adapted", self.plan('optimizer={name="lamb"}'))
        self.assertNotIn("decay", self.plan().split("epochs")[0])
        self.assertIn("no parameter matches 'zzz'", self.plan('optimizer.no_decay=["zzz"]', code=78))

    def test_how_long_it_takes(self):
        """As long as the newest run of the line that did the same work took, and nothing where none did."""
        def expected(*settings):
            return json.loads(self.plan("--json", "--workers", "2", *settings))[0].get("expected_seconds")

        samples = json.loads(self.plan("--json", "--workers", "2"))[0]["samples"]
        rates = [event["samples_per_second"] for event in harness.events(self.day2, "step")]
        rate = samples / expected()
        self.assertTrue(any(abs(rate - logged) <= 1e-9 * rate for logged in rates), (rate, rates))
        for settings in (["model.hidden=[24, 17]", "warm_start.strategy=cold"], ["batch.global=16"],
                         ['optimizer={name="adamw"}']):
            self.assertIsNone(expected(*settings), settings)
        for run in harness.runs(self.line):   # of samples of another shape
            log = run / "metrics.jsonl"
            self.assertIn('"sample":[8]', log.read_text())
            log.write_text(log.read_text().replace('"sample":[8]', '"sample":[9]'))
        self.assertIsNone(expected())

    def test_a_picture_replaces_only_a_picture(self):
        picture = self.folder / "rate.svg"
        for _ in range(2):
            self.plan("--svg", picture)
        before = self.job.read_bytes()
        self.assertIn("something else than a picture", self.plan("--svg", self.job, code=78))
        self.assertEqual(self.job.read_bytes(), before)

    def test_a_worker_that_dies(self):
        crash = self.folder / "crash.sh"
        crash.write_text("#!/bin/sh\nkill -SEGV $$\n")
        crash.chmod(0o755)
        self.assertIn("the worker was killed by signal 11", self.plan(worker=crash, code=1))

    def test_mistakes_are_told(self):
        self.assertIn("there is nothing to start from", self.plan("warm_start.from=/nowhere", code=78))
        self.plan("schedule.base_rl=1", code=78)
        self.plan("--workers", "none", code=64)


if __name__ == "__main__":
    unittest.main()
