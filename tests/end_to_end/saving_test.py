# SPDX-License-Identifier: Apache-2.0
"""Checkpoints are written while the training goes on: what that changes, and what it must not."""

import os
import pathlib
import re
import shutil
import signal
import subprocess
import time
import unittest

import harness


class Saving(harness.Case):
    def setUp(self):
        super().setUp()
        self.write_data(harness.clusters(2000, features=512))
        self.job = self.write_job("""
            [model]
            hidden = [1024, 512]
            [data]
            path = "data.safetensors"
            [batch]
            global = 32
            [optimizer]
            name = "adamw"
            [schedule]
            base_lr = 0.0001
            [evaluation]
            every = "10ba"
            validation = 0.1
            [checkpoint]
            every = "10ba"
            [run]
            directory = "run"
            duration = "60ba"
            log_every = "1ba"
            """)
        self.directory = self.folder / "run"

    def test_training_goes_on_meanwhile(self):
        """Some steps are logged between the copy of the state and the event that says it is on the disk."""
        self.run_well(self.job, "checkpoint.keep=10", workers=2)
        behind = 0
        newest = -1
        for event in harness.metrics(self.directory):
            if event["event"] == "step":
                newest = event["step"]
            elif event["event"] == "checkpoint":
                behind += newest - (event["step"] - 1)
                self.assertLess(event["stall_ms"], event["seconds"] * 1e3)
        self.assertGreater(behind, 0)
        self.assertEqual([event["step"] for event in harness.events(self.directory, "checkpoint")], list(range(10, 61, 10)))

    def test_the_same_bytes_as_in_the_foreground(self):
        models = set()
        for name, settings in (("behind", ()), ("waiting", ("checkpoint.background=false",))):
            directory = self.folder / name
            self.run_well(self.job, f"run.directory={directory}", "checkpoint.keep=10", *settings, workers=2)
            models.add(tuple((directory / "checkpoints" / f"step-{step:09}" / file).read_bytes() for step in (10, 30, 60)
                             for file in ("model.safetensors", "optimizer-00001-of-00002.safetensors")))
        self.assertEqual(len(models), 1)

    def test_the_best_and_the_first_of_each_stretch_stay(self):
        self.run_well(self.job, "checkpoint.keep=2", "checkpoint.keep_every=20ba")
        scores = {event["step"]: event["metrics"]["accuracy"] for event in harness.events(self.directory, "eval")
                  if event["set"] == "validation" and event["step"] > 0}
        best = max(scores, key=lambda step: (scores[step], -step))
        folder = self.directory / "checkpoints"
        self.assertEqual((folder / "best").readlink().name, f"step-{best:09}")
        kept = {int(path.name.removeprefix("step-")) for path in folder.glob("step-*")}
        self.assertEqual(kept, {20, 40, 50, 60, best})

    def test_a_failure_ends_the_run_within_a_step(self):
        """The disk is full when the second checkpoint is written."""
        with self.small_disk(20 << 10) as disk:   # one of 12 MB fits
            directory = disk / "run"
            every = 1000   # so that it is not the next save that tells
            result = self.run_well(self.job, f"run.directory={directory}", "run.duration=100000ba", "run.log_every=1ba",
                                   f"checkpoint.every={every}ba", "evaluation.every=1000000ba", workers=2, code=1)
            self.assert_says(result, "No space left on device")
            self.assertEqual([event["step"] for event in harness.events(directory, "checkpoint")], [every])
            self.assertLess(max(harness.steps(directory)), 3 * every - 100)
            self.assertEqual(sorted(path.name for path in (directory / "checkpoints").iterdir()), ["latest", "step-000001000"])

    def test_workers_that_share_no_file_system(self):
        """Rank 1 has a folder of its own in place of the run directory's, and rank 0 writes and reads for both."""
        home = self.folder / "home"
        home.mkdir()
        apart = ["unshare", "--mount", "--propagation", "private", "sh", "-c",
                 f'mount -t tmpfs tmpfs {home} && "$@"; code=$?; find {home} -name "*safetensors*"; exit $code', "sh"]
        trial = subprocess.run([*apart, "true"], capture_output=True, text=True)
        if trial.returncode != 0:
            self.skipTest(f"no mount namespace here: {trial.stderr.strip()}")
        *start, worker, job = harness.mpirun(self.job, workers=2)
        common = [*start[:1], *start[3:]]

        def train(*settings):
            words = [worker, job, f"run.directory={home}/run", *settings]
            result = harness.run([*common, "-n", "1", *words, ":", "-n", "1", *apart, *words], self.folder)
            self.assertEqual(result.code, 0, result.text)
            self.assertNotIn("safetensors", result.text)   # rank 1 left no part in its own folder
            return result

        train("checkpoint.gather=true", "run.duration=30ba")
        train("checkpoint.gather=true", "run.duration=60ba")
        self.run_well(self.job, workers=2)
        self.assertEqual(harness.model_bytes(home / "run"), harness.model_bytes(self.directory))

    def test_memory_of_the_copy_is_bounded(self):
        """Saves that are due faster than the disk takes them wait; copies do not pile up."""
        peaks = []
        for every in "60ba", "1ba":
            directory = self.folder / f"every-{every}"
            command = harness.launch(self.job, f"run.directory={directory}", f"checkpoint.every={every}")
            with harness.Live(command) as live:
                peak = 0
                while not live.has_ended():
                    for process in live.rank_processes().values():
                        try:
                            status = pathlib.Path(f"/proc/{process}/status").read_text()
                        except OSError:
                            continue
                        peak = max([peak, *(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM"))])
                    time.sleep(0.02)
                self.assertEqual(live.result().code, 0)
            peaks.append(peak)
        self.assertLess(peaks[1] - peaks[0], 60 << 10)   # kB; a copy is 12 MB, and sixty are saved


class PowerCut(harness.Case):
    """What the disk holds at some moment of a run is what a machine finds that lost its power then."""

    def mount(self, image, place):
        place.mkdir(exist_ok=True)
        done = subprocess.run(["mount", "-o", "loop", image, place], capture_output=True, text=True)
        if done.returncode != 0:
            self.skipTest(f"no loop-mounted file systems here: {done.stderr.strip()}")
        self.addCleanup(lambda: subprocess.run(["umount", place], capture_output=True))

    def copy_at_one_moment(self, live, image, copy):
        """Nobody writes while it is copied; what was written and not synced may be there or not, as on any disk."""
        processes = live.rank_processes().values()
        for process in processes:
            os.kill(process, signal.SIGSTOP)
        time.sleep(0.05)   # calls that have begun are ended
        shutil.copyfile(image, copy)
        for process in processes:
            os.kill(process, signal.SIGCONT)

    def test_what_was_published_is_there(self):
        self.write_data(harness.clusters(2000, features=64))
        job = self.write_job("""
            [model]
            hidden = [128]
            [data]
            path = "data.safetensors"
            [batch]
            global = 32
            [optimizer]
            momentum = 0.9
            [schedule]
            base_lr = 0.001
            [checkpoint]
            every = "3ba"
            [run]
            directory = "disk/run"
            duration = "100000000ba"
            reproducible = "any-world"
            """)
        image, disk = self.folder / "image", self.folder / "disk"
        made = subprocess.run(["sh", "-c", f"truncate -s 48M {image} && mkfs.ext4 -q -F {image}"], capture_output=True, text=True)
        if made.returncode != 0:
            self.skipTest(f"no ext4 here: {made.stderr.strip()}")
        self.mount(image, disk)

        cuts = []   # what was said to be safe by then, and what the disk held
        with harness.Live(harness.launch(job, workers=2)) as live:
            for number in range(4):
                said = len(harness.events(disk / "run", "checkpoint"))
                live.wait_for(lambda: len(harness.events(disk / "run", "checkpoint")) > said + 3)
                safe = harness.events(disk / "run", "checkpoint")[-1]["step"]
                copy = self.folder / f"copy-{number}"
                self.copy_at_one_moment(live, image, copy)
                cuts.append((safe, copy))
            live.kill_rank(0)
            live.result()
        for number, (safe, copy) in enumerate(cuts):
            with self.subTest(cut=number):
                subprocess.run(["e2fsck", "-fy", copy], capture_output=True)
                after = self.folder / f"after-{number}"
                self.mount(copy, after)
                result = harness.run(harness.launch(job, f"run.directory={after}/run", f"run.duration={safe + 200}ba",
                                                    "checkpoint.every=1h"))
                self.assertEqual(result.code, 0, result.text)
                resumed = int(re.search(r"resuming at step (\d+)", result.text)[1])
                self.assertGreaterEqual(resumed, safe)


if __name__ == "__main__":
    unittest.main()
