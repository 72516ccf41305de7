# SPDX-License-Identifier: Apache-2.0
"""What is wrong with input, disk or surroundings is told: what, where and what to do, with the exit code that scripts
rely on, and nothing half-written is left under a final name."""

import contextlib
import gzip
import os
import shutil
import struct
import subprocess
import sys
import unittest

import numpy
from safetensors.numpy import save_file

import harness

ENDLESS = "run.duration=100000000ba"


def write_idx(path, array):
    """The format of the MNIST family: unsigned bytes behind a big-endian header."""
    header = struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape)
    path.write_bytes(header + array.astype(numpy.uint8).tobytes())


class BadInput(harness.Case):
    def setUp(self):
        super().setUp()
        self.write_data(harness.clusters(300))
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
            [run]
            directory = "run"
            duration = "40ba"
            """)
        self.directory = self.folder / "run"

    def refuse(self, code, *words, settings=(), workers=None):
        """Runs the job, with a bare worker or with so many; it must end with `code`, by an error that holds `words` and
        says what to do."""
        bare = [harness.WORKER, self.job, *settings]
        command = harness.launch(self.job, *settings, workers=workers) if workers else bare
        result = harness.run(command)
        self.assertEqual(result.code, code, result.text)
        self.assert_says(result, *words)
        self.assertRegex(result.text, r"\n\s+(at .*\n\s+)?hint: \w+")
        self.assertEqual(harness.half_written(self.directory), [])
        return result

    # The job file.

    def test_five_mistakes(self):
        job = self.write_job("""\
            [model]
            hiden = [16]
            [data]
            path = "data.safetensors"
            [batch]
            global = 0
            [optimizer]
            momentum = "much"
            [schedule]
            base_lr = 0.1
            decay = "cosinus"
            [run]
            directory = "run"
            duration = "5 epochs"
            """, "mistakes.toml")
        places = "2:1", "6:10", "8:12", "11:9", "14:12"
        for command in harness.launch(job, workers=2), harness.mpirun(job, workers=2), [harness.WORKER, job]:
            with self.subTest(command=command[:2]):
                result = harness.run(command)
                self.assertEqual(result.code, 78, result.text)
                self.assert_says(result, *(f"{job}:{place}" for place in places))
                self.assert_says(result, "hiden", "'hidden'", "cosinus", "'cosine'")
                self.assertEqual(result.text.count(f"{job}:2:1"), 1, "one rank speaks for all")
        self.assertFalse(self.directory.exists())

    def test_not_in_this_version(self):
        for setting in ('data.use="new"', "warm_start.load.optimizer=rescale", "model.name=bert",
                        "warm_start.strategy=fire", "run.max_restarts=3"):
            with self.subTest(setting=setting):
                result = self.run_well(self.job, setting, code=78)
                self.assert_says(result, "not in this version", setting.split("=")[0])
        self.assertFalse(self.directory.exists())

    def test_mistakes_in_overrides(self):
        overrides = "schedule.base_lr=-1", "run.sed=1"
        result = self.refuse(78, *overrides, "seed", settings=overrides)
        self.assertNotIn("job.toml:", result.text)
        self.assertFalse(self.directory.exists())

    def test_no_job_file(self):
        missing = self.folder / "missing.toml"
        for command in harness.launch(missing), [harness.WORKER, missing]:
            result = harness.run(command)
            self.assertEqual(result.code, 78, result.text)
            self.assert_says(result, "missing.toml")

    def test_warm_up_longer_than_the_run(self):
        self.refuse(78, "schedule.warmup is longer", settings=("schedule.warmup=100ba",), workers=2)
        # In units that only the data make comparable it is found later, and leaves as little behind.
        self.refuse(78, "warm-up", "schedule.warmup", settings=("schedule.warmup=100000sp",), workers=2)
        self.run_well(self.job, workers=2)   # what was refused does not stand in the way of what is right

    # The data.

    def test_missing_data(self):
        (self.folder / "data.safetensors").unlink()
        self.refuse(78, str(self.folder / "data.safetensors"), workers=2)
        self.assertFalse(self.directory.exists())

    def test_damaged_data(self):
        path = self.folder / "data.safetensors"
        good = path.read_bytes()
        for damaged in good[:len(good) // 2], b"not a data set at all " * 20:
            with self.subTest(bytes=len(damaged)):
                path.write_bytes(damaged)
                self.refuse(78, str(path))
                self.assertFalse(self.directory.exists())

    def test_data_of_the_wrong_kind(self):
        x, y = harness.clusters(50).values()
        spoiled = x.copy()
        spoiled[7, 3] = numpy.nan
        for data, words in (({"x": x.astype(numpy.float64), "y": y}, ("F64", "F32")),
                            ({"x": spoiled, "y": y}, ("sample 7", "nan"))):
            with self.subTest(words=words):
                self.write_data(data)
                self.refuse(78, "data.safetensors", *words)
                self.assertFalse(self.directory.exists())

    def write_images(self):
        random = numpy.random.default_rng(0)
        write_idx(self.folder / "images", random.integers(0, 256, (200, 4, 4)))
        write_idx(self.folder / "labels", random.integers(0, 3, 200))
        increment = '{images="images", labels="labels"}'
        data = f'data={{kind="idx", normalize={{mean=[0.5], std=[0.25]}}, increments=[{increment}]}}'
        return data, "run.duration=2ep"

    def test_truncated_idx(self):
        settings = self.write_images()
        images = self.folder / "images"
        whole = images.read_bytes()
        for damaged in whole[:-1], gzip.compress(whole)[:-300], whole + b"\0":
            with self.subTest(bytes=len(damaged)):
                images.write_bytes(damaged)
                self.refuse(78, str(images), settings=settings)
                self.assertFalse(self.directory.exists())
        images.write_bytes(gzip.compress(whole))
        self.run_well(self.job, *settings, workers=2)

    def test_preprocessing_of_another_kind(self):
        settings = self.write_images()
        self.run_well(self.job, *settings)
        child = "warm_start.from=run", "run.directory=child"
        self.refuse(78, "data.normalize", "0.5", "0.25", settings=(*settings, *child, "data.normalize.mean=[0.4]"))
        self.refuse(78, "the shape of a sample", "[8]", settings=("data.path=data.safetensors", *child))
        self.assertFalse((self.folder / "child").exists())

    # The parent.

    def test_damaged_parent(self):
        parent = self.folder / "parent"
        self.run_well(self.job, f"run.directory={parent}")
        checkpoint = harness.latest(parent)
        child = ("warm_start.from=parent",)
        for name in "model.safetensors", "manifest.json", "lineage.json":
            with self.subTest(file=name):
                content = (checkpoint / name).read_bytes()
                harness.flip_byte(checkpoint / name, len(content) // 2)
                self.refuse(78, str(checkpoint), name, settings=child)
                self.assertFalse(self.directory.exists())
            (checkpoint / name).write_bytes(content)
        (checkpoint / "model.safetensors").unlink()
        self.refuse(78, str(checkpoint), "model.safetensors", settings=child, workers=2)

    def test_missing_parent(self):
        self.refuse(78, "warm_start.from", str(self.folder / "nothing"), settings=("warm_start.from=nothing",))
        self.refuse(78, "warm_start.from", "line", settings=("warm_start.from=promoted",))
        self.assertFalse(self.directory.exists())

    def test_pickle(self):
        import torch
        weights = {"layers.0.weight": torch.randn(16, 8), "layers.0.bias": torch.randn(16),
                   "layers.1.weight": torch.randn(4, 16), "layers.1.bias": torch.randn(4)}
        torch.save(weights, self.folder / "old.pt")
        shutil.copy(self.folder / "old.pt", self.folder / "disguised.safetensors")
        self.refuse(78, "pickle", settings=("warm_start.from=disguised.safetensors",), workers=2)
        result = self.refuse(78, "pickle", str(self.folder / "old.pt"), settings=("warm_start.from=old.pt",))
        self.assertFalse(self.directory.exists())

        # The three lines of Python that the hint gives do what they say.
        lines = [line.strip() for line in result.text.split("hint:")[1].splitlines()]
        begin = next(i for i, line in enumerate(lines) if line.startswith("import torch"))
        program = "\n".join(lines[begin:begin + 3])
        subprocess.run([sys.executable, "-c", program], cwd=self.folder, check=True)
        self.run_well(self.job, "warm_start.from=old.safetensors", "schedule.base_lr=1e-30", workers=2)
        for name, tensor in harness.weights(self.directory).items():
            numpy.testing.assert_array_equal(tensor, weights[name].numpy(), name)

    # The surroundings.

    def test_disk_that_fills_up(self):
        with self.small_disk(2048) as disk:
            directory = disk / "run"
            # 600 KiB a checkpoint
            wide = "model.hidden=[1024, 64]", "checkpoint.every=10ba", "run.duration=50ba", f"run.directory={directory}"
            result = self.refuse(1, "No space left on device", str(directory), settings=wide, workers=2)
            self.assertNotIn("Traceback", result.text)
            self.assertEqual(harness.half_written(disk), [])
            saved = harness.latest(directory)
            self.assertNotIn("done", [event["status"] for event in harness.metrics(directory) if event["event"] == "end"])

            subprocess.run(["mount", "-o", "remount,size=8m", disk], check=True)
            resumed = self.run_well(self.job, *wide, workers=2)
            self.assert_says(resumed, f"resuming at step {int(saved.name[5:])}")
            self.assertEqual([path.name for path in (directory / "checkpoints").iterdir() if ".tmp-" in path.name], [])
            bytes_of_resumed = harness.model_bytes(directory)
        self.run_well(self.job, *wide[:-1], workers=2)
        self.assertEqual(bytes_of_resumed, harness.model_bytes(self.directory))

    def test_disk_that_is_full(self):
        with self.small_disk(64) as disk:
            with contextlib.suppress(OSError):
                (disk / "filler").write_bytes(bytes(1 << 20))
            for place in "run.directory=disk/run", "run.line=disk/line":
                with self.subTest(place=place):
                    result = self.refuse(1, str(disk), settings=(place,))
                    self.assertRegex(result.text, "No space left on device")
            names = {path.name for path in disk.rglob("*") if path.is_file() and path.stat().st_size == 0}
            self.assertLessEqual(names, {".lock"}, "empty files under final names")

    def test_two_runs_of_one_line(self):
        line = self.folder / "line"
        for place, held, live_name in ((f"run.line={line}", line, lambda: harness.runs(line)[0].name),
                                       (f"run.directory={self.directory}", self.directory, lambda: "")):
            with self.subTest(place=place), \
                    harness.Live(harness.launch(self.job, ENDLESS, place, workers=2)) as live:
                live.wait_for(lambda: line.exists() and any(harness.steps(run) for run in harness.runs(line))
                              if "line" in place else harness.steps(self.directory))
                result = self.refuse(1, f"'{held}' is live", live_name(), settings=(place,), workers=2)
                self.assertRegex(result.text, r"process \d+ on \S+")
        self.assertEqual(len(harness.runs(line)), 1)
        self.assertFalse((line / "promoted").exists())

    def test_directory_of_other_things(self):
        self.directory.mkdir()
        (self.directory / "thesis.txt").write_text("years of work")
        self.refuse(78, str(self.directory / "thesis.txt"))
        self.assertEqual({path.name for path in self.directory.iterdir()} - {".lock"}, {"thesis.txt"})

    def test_no_mpirun(self):
        empty = self.folder / "empty"
        empty.mkdir()
        result = harness.run(harness.launch(self.job, workers=2), environment={**os.environ, "PATH": str(empty)})
        self.assertEqual(result.code, 1, result.text)
        self.assert_says(result, "no mpirun on the PATH", "hint:", "openmpi-bin")
        self.assertFalse(self.directory.exists())

    # The training itself.

    def test_not_finite(self):
        """One sample, which one worker sees, spoils the second step of each epoch."""
        data = harness.clusters(320)
        data["x"][40] = 3e38
        self.write_data(data)
        random = numpy.random.default_rng(0)   # large enough to make such a sample overflow at once
        shapes = {"layers.0.weight": (16, 8), "layers.0.bias": (16,), "layers.1.weight": (4, 16), "layers.1.bias": (4,)}
        save_file({name: random.normal(size=shape).astype(numpy.float32) for name, shape in shapes.items()},
                  self.folder / "large.safetensors")
        settings = ("warm_start.from=large.safetensors", "schedule.base_lr=0.01", "data.shuffle=false",
                    "checkpoint.every=1ba", "run.log_every=1ba")
        result = self.refuse(1, "not finite at step 1", "schedule.base_lr", "run.on_nan", settings=settings, workers=2)
        self.assertEqual(result.text.count("not finite at step"), 1, "one rank speaks for all")
        self.assertEqual(harness.latest(self.directory).name, "step-000000001")
        for name, tensor in harness.weights(self.directory).items():
            self.assertTrue(numpy.all(numpy.isfinite(tensor)), name)

        skipping = self.folder / "skipping"
        result = self.run_well(self.job, *settings, "run.on_nan=skip", f"run.directory={skipping}", workers=2)
        for step in 1, 11, 21, 31:
            self.assert_says(result, f"step {step} skipped")
        self.assertEqual(result.text.count("skipped"), 4)
        for name, tensor in harness.weights(skipping).items():
            self.assertTrue(numpy.all(numpy.isfinite(tensor)), name)
        self.assertLess(harness.steps(skipping)[39]["loss"], 0.5 * harness.steps(skipping)[0]["loss"])

        # The count goes on where a run does.
        longer = self.folder / "longer"
        shutil.copytree(skipping, longer, symlinks=True)
        self.run_well(self.job, *settings, "run.on_nan=skip", f"run.directory={longer}", "run.duration=50ba", workers=2)
        self.assertEqual([event["skipped"] for event in harness.events(longer, "end")], [4, 5])

        # As if that batch had never been there.
        keep = numpy.ones(320, bool)
        keep[32:64] = False
        self.write_data({name: tensor[keep] for name, tensor in data.items()})
        without = self.folder / "without"
        self.run_well(self.job, *settings, f"run.directory={without}", "run.duration=36ba", workers=2)
        self.assertEqual(harness.model_bytes(skipping), harness.model_bytes(without))


if __name__ == "__main__":
    unittest.main()
