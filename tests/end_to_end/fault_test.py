# SPDX-License-Identifier: Apache-2.0
"""What a machine does to a run: a worker that stands still, a container with next to no /dev/shm, and many more workers
than processors."""

import contextlib
import os
import pathlib
import signal
import subprocess
import time
import unittest

import harness

MANY = 64
MANY_PATIENCE = 240  # seconds, for 64 workers on the two processors of a small machine


def process_names():
    """The process of every worker that there is on this machine, and its state: "R", "S", "T" where it is stopped."""
    found = {}
    for folder in pathlib.Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if os.readlink(folder / "exe") == os.path.realpath(harness.WORKER):
                found[int(folder.name)] = (folder / "stat").read_text().rsplit(")", 1)[1].split()[0]
    return found


class Fault(harness.Case):
    def setUp(self):
        super().setUp()
        self.write_data(harness.clusters(2000, features=12))
        self.job = self.write_job("""
            [model]
            hidden = [24]
            batch_norm = true
            [data]
            path = "data.safetensors"
            [batch]
            global = 256
            [schedule]
            base_lr = 0.05
            [run]
            directory = "run"
            duration = "10ba"
            log_every = "1ba"
            """)
        self.directory = self.folder / "run"


class StoppedWorker(Fault):
    def stop(self, live, rank):
        """Stops one rank as a debugger or a full swap would; whatever becomes of the test, it is ended."""
        process = live.rank_processes()[rank]
        self.addCleanup(self.end, process)
        os.kill(process, signal.SIGSTOP)
        return process

    def end(self, process):
        with contextlib.suppress(ProcessLookupError):
            os.kill(process, signal.SIGKILL)

    def test_it_is_named_and_nothing_is_left(self):
        for start, stopped in ((harness.launch, 1), (harness.launch, 0), (harness.mpirun, 2)):
            with self.subTest(start=start.__name__, stopped=stopped):
                directory = self.folder / f"{start.__name__}-{stopped}"
                command = start(self.job, "run.duration=100000000ba", "run.deadline=3sec", f"run.directory={directory}",
                                workers=3)
                with harness.Live(command) as live:
                    live.wait_for(lambda: len(harness.steps(directory)) > 20)
                    ranks = live.rank_processes()
                    self.assertEqual(set(ranks), {0, 1, 2})
                    self.stop(live, stopped)
                    stopped_at = time.monotonic()
                    result = live.result()
                    took = time.monotonic() - stopped_at
                    left = self.wait_for_the_end_of(ranks.values())
                self.assertNotEqual(result.code, 0, result.text)
                self.assertLess(took, 3 + 5)   # the deadline, and mpirun's own end
                self.assertRegex(result.text, rf"'[a-z ]+' was not reached within 3[.0]* s by rank {stopped}\b")
                self.assert_says(result, "a worker hangs or is stopped; run.deadline sets how long to wait")
                self.assertEqual(left, {})

    def wait_for_the_end_of(self, processes):
        """The ones that are still there after a while: mpirun ends the others as it leaves, not before."""
        end = time.monotonic() + harness.PATIENCE
        while (left := {p: s for p, s in process_names().items() if p in processes}) and time.monotonic() < end:
            time.sleep(0.02)
        return left


class WorkerThatNeverJoins(Fault):
    """Until the ranks have met nothing of ours lies between them, and they wait inside MPI."""

    def test_the_others_give_up(self):
        *start, worker, job = harness.mpirun(self.job, workers=2)
        stuck = self.folder / "stuck.toml"
        os.mkfifo(stuck)   # reading the job waits for a writer who never comes
        command = [*start[:1], "-n", "1", *start[3:], worker, job, "run.deadline=3sec",
                   ":", "-n", "1", worker, str(stuck)]
        result = harness.run(command, self.folder)
        self.assertEqual(result.code, 1, result.text)
        self.assert_says(result, "rank 0 failed", "'start of all ranks' was not reached within 3")


class UnequalStarts(Fault):
    """What all ranks must have alike is compared before anything is shared, by ranks of one mpirun that differ."""

    def start(self, *second):
        *start, worker, job = harness.mpirun(self.job, workers=2)
        common = [*start[:1], *start[3:]]
        return harness.run([*common, "-n", "1", worker, job, ":", "-n", "1", *second], self.folder)

    def test_job(self):
        result = self.start(harness.WORKER, self.job, "schedule.base_lr=0.1")
        self.assertEqual(result.code, 78, result.text)
        self.assert_says(result, "rank 1 does not hold the same job as rank 0")
        self.assertFalse(self.directory.exists())

    def test_program(self):
        other = self.folder / "other-worker"
        other.write_bytes(pathlib.Path(harness.WORKER).read_bytes() + b"x")
        other.chmod(0o755)
        result = self.start(other, self.job)
        self.assertEqual(result.code, 78, result.text)
        self.assert_says(result, "rank 1 does not hold the same program as rank 0")

    def test_data(self):
        """The same job file in folders that hold different data, as on nodes with disks of their own."""
        elsewhere = self.folder / "elsewhere"
        elsewhere.mkdir()
        self.write_data(harness.clusters(2000, features=12, seed=9), "elsewhere/data.safetensors")
        inner = f'mount --bind {elsewhere}/data.safetensors {self.folder}/data.safetensors && exec "$@"'
        apart = ["unshare", "--mount", "--propagation", "private", "sh", "-c", inner, "sh"]
        trial = subprocess.run([*apart, "true"], capture_output=True, text=True)
        if trial.returncode != 0:
            self.skipTest(f"no mount namespace here: {trial.stderr.strip()}")
        result = self.start(*apart, harness.WORKER, self.job)
        self.assertEqual(result.code, 78, result.text)
        self.assert_says(result, "rank 1 does not hold the same data as rank 0")


class SmallSharedMemory(Fault):
    """Containers have 64 MB in /dev/shm, some less. Our own memory is not there; Open MPI's must be told to go elsewhere."""

    def setUp(self):
        super().setUp()
        trial = subprocess.run(self.in_namespace(1, "true"), capture_output=True, text=True)
        if trial.returncode != 0:
            self.skipTest(f"no mount namespace here: {trial.stderr.strip()}")

    @staticmethod
    def in_namespace(megabytes, *command):
        """The command, where /dev/shm is as small as that."""
        mount = f'mount -t tmpfs -o size={megabytes}m tmpfs /dev/shm && exec "$@"'
        return ["unshare", "--mount", "--propagation", "private", "sh", "-c", mount, "sh", *map(str, command)]

    def test_runs_as_anywhere(self):
        self.run_well(self.job, workers=3)
        for megabytes in (1, 64):
            with self.subTest(megabytes=megabytes):
                directory = self.folder / f"{megabytes}"
                command = harness.launch(self.job, f"run.directory={directory}", workers=3)
                result = harness.run(self.in_namespace(megabytes, *command))
                self.assertEqual(result.code, 0, result.text)
                self.assertNotIn("share no memory", result.text)   # the slow way would be taken in silence
                self.assertNotIn("/dev/shm", result.text)   # Open MPI complains where it finds no room
                self.assertEqual(harness.model_bytes(directory), harness.model_bytes(self.directory))

    def test_more_workers_than_fit(self):
        command = harness.launch(self.job, workers=16)   # of 4 MiB each, and a little
        result = harness.run(self.in_namespace(64, *command))
        self.assertEqual(result.code, 0, result.text)
        self.assertEqual(len(harness.steps(self.directory)), 10)


class OwnProcessNumbers(Fault):
    """Ranks in containers of their own, on one machine: each is process 1, or so, and /proc/1 of the other is itself."""

    IN_ITS_OWN = ["unshare", "--pid", "--fork", "--mount-proc"]

    def test_exchanges_by_messages(self):
        trial = subprocess.run([*self.IN_ITS_OWN, "true"], capture_output=True, text=True)
        if trial.returncode != 0:
            self.skipTest(f"no process namespace here: {trial.stderr.strip()}")
        *mpirun, worker, job = harness.mpirun(self.job, workers=2)
        # Open MPI's own shared memory takes process numbers for names and fails there.
        result = harness.run([*mpirun, "--mca", "btl", "self,tcp", *self.IN_ITS_OWN, worker, job], self.folder)
        self.assertEqual(result.code, 0, result.text)
        self.assertIn("share no memory", result.text)
        self.assertEqual(len(harness.steps(self.directory)), 10)


class ManyWorkers(Fault):
    def test_start_ten_steps_end(self):
        began = time.time()
        phases = {}
        with harness.Live(harness.launch(self.job, "run.deadline=3min", workers=MANY)) as live:
            ranks = live.wait_for(lambda: self.all_of(live), MANY_PATIENCE)
            phases["all processes are there"] = time.time()
            first = pathlib.Path(f"/proc/{ranks[0]}/maps")
            live.wait_for(lambda: "memfd:rekindle" in first.read_text(), MANY_PATIENCE)
            phases["they have met through MPI"] = time.time()
            live.wait_for(lambda: "to train on" in live.text(), MANY_PATIENCE)
            phases["data are read"] = time.time()
            result = live.result(MANY_PATIENCE)
        ended = time.time()
        self.assertEqual(result.code, 0, result.text)
        steps = harness.steps(self.directory)
        self.assertEqual(sorted(steps), list(range(10)))
        phases |= {"first step": steps[0]["time"], "ten steps": steps[9]["time"], "end": ended}
        print(f"{MANY} workers on {os.cpu_count()} processors:")
        for name, at in phases.items():
            print(f"  {at - began:7.2f} s  {name}")
        self.assertEqual(list(phases.values()), sorted(phases.values()))
        self.assertEqual(process_names().keys() & set(ranks.values()), set())

    def all_of(self, live):
        ranks = live.rank_processes()
        return ranks if len(ranks) == MANY else None


if __name__ == "__main__":
    unittest.main()
