# SPDX-License-Identifier: Apache-2.0
"""Runs the real programs on data and jobs that a test writes, and reads what they leave behind."""

import contextlib
import dataclasses
import json
import os
import pathlib
import signal
import subprocess
import tempfile
import textwrap
import time
import unittest

import numpy
from safetensors.numpy import load_file, save_file

LAUNCHER = os.environ["REKINDLE"]
WORKER = os.environ["REKINDLE_WORKER"]
PATIENCE = 60  # seconds after which whatever a test waits for counts as never coming


@dataclasses.dataclass
class Result:
    code: int
    text: str  # standard output and error together

    @property
    def last_line(self):
        return self.text.rstrip().rsplit("\n", 1)[-1]


def launch(job, *arguments, workers=1):
    """The command that starts a job as people do."""
    return [LAUNCHER, "run", job, "-n", str(workers), "--worker", WORKER, *arguments]


def mpirun(job, *arguments, workers=1):
    """The command that starts a job without the launcher."""
    return ["mpirun", "-n", str(workers), "--oversubscribe", "--bind-to", "none", WORKER, job, *arguments]


def run(command, cwd=None, environment=None):
    """Runs a command to its end."""
    with Live(command, cwd, environment) as live:
        return live.result()


class Live:
    """A command that runs. Leaving its context ends it, whatever came before."""

    def __init__(self, command, cwd=None, environment=None):
        self._output = tempfile.TemporaryFile()
        self._process = subprocess.Popen([str(word) for word in command], cwd=cwd, env=environment,
                                         stdin=subprocess.DEVNULL, stdout=self._output, stderr=subprocess.STDOUT,
                                         start_new_session=True)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self._process.poll() is None:
            for process in self.rank_processes().values():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(process, signal.SIGKILL)
            self._process.kill()
            self._process.wait()
        self._output.close()

    def result(self, patience=PATIENCE):
        code = self._process.wait(patience)
        return Result(code, self.text())

    def text(self):
        """What it has said so far; it writes through the same file, so its place there is left alone."""
        return os.pread(self._output.fileno(), 1 << 24, 0).decode(errors="replace")

    def wait_for(self, is_there, patience=PATIENCE):
        """Waits until `is_there()` is true, and returns what it gave."""
        end = time.monotonic() + patience
        while not (found := is_there()):
            if self._process.poll() is not None:
                raise AssertionError(f"the run ended too early: {self.result()}")
            if time.monotonic() > end:
                raise AssertionError("what was waited for never came")
            time.sleep(0.005)
        return found

    def has_ended(self):
        return self._process.poll() is not None

    def signal(self, number):
        """Sends a signal to the command itself, not to what it started."""
        self._process.send_signal(number)

    def kill_rank(self, rank):
        os.kill(self.rank_processes()[rank], signal.SIGKILL)

    def rank_processes(self):
        """The process of each rank among the descendants of the command."""
        ranks = {}
        for folder in pathlib.Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError, ValueError, KeyError):
                if os.readlink(folder / "exe") != os.path.realpath(WORKER) or not self._is_ours(int(folder.name)):
                    continue
                variables = dict(v.split("=", 1) for v in (folder / "environ").read_text().split("\0") if "=" in v)
                ranks[int(variables["OMPI_COMM_WORLD_RANK"])] = int(folder.name)
        return ranks

    def _is_ours(self, process):
        while process > 1:
            if process == self._process.pid:
                return True
            process = int(pathlib.Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[1])
        return False


# What a run leaves behind.

def metrics(directory):
    """All events of a run so far; a line that is just being written is left out."""
    path = directory / "metrics.jsonl"
    text = path.read_text() if path.exists() else ""
    return [json.loads(line) for line in text[:text.rfind("\n") + 1].splitlines()]


def events(directory, kind):
    return [event for event in metrics(directory) if event["event"] == kind]


def steps(directory):
    """The step events by step. After a resume a step may stand twice, and the last one holds."""
    return {event["step"]: event for event in events(directory, "step")}


def latest(directory):
    return (directory / "checkpoints" / "latest").resolve(strict=True)


def model_bytes(directory):
    return (latest(directory) / "model.safetensors").read_bytes()


def weights(directory):
    return load_file(latest(directory) / "model.safetensors")


def document(path):
    return json.loads(path.read_text())


def runs(line):
    """The runs of a line, the oldest first."""
    return sorted(path for path in line.iterdir() if path.is_dir() and not path.is_symlink())


def half_written(directory):
    """Checkpoints under their final name that lack their manifest or a file that it lists."""
    damaged = []
    for checkpoint in directory.glob("**/step-*"):
        try:
            listed = document(checkpoint / "manifest.json")["files"]
            if any((checkpoint / name).stat().st_size != file["bytes"] for name, file in listed.items()):
                damaged.append(checkpoint)
        except (OSError, ValueError):
            damaged.append(checkpoint)
    return damaged


def flip_byte(path, at=-1):
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(content)


def cut_off_behind(directory, kind):
    """Makes a run that is done look as one that was killed right after its last event of this kind."""
    lines = (directory / "metrics.jsonl").read_text().splitlines(keepends=True)
    while json.loads(lines[-1])["event"] != kind:
        lines.pop()
    (directory / "metrics.jsonl").write_text("".join(lines))


def without_seconds(state):
    """What a checkpoint's state says, but for the clock."""
    return ({key: without_seconds(value) for key, value in state.items() if key != "seconds"}
            if isinstance(state, dict) else state)


# What a run is given.

def clusters(samples, classes=4, features=8, seed=0, spread=1.0, centres_seed=0):
    """Normal clouds around one centre per class: x [samples, features] in F32, y [samples] in I64."""
    random = numpy.random.default_rng(seed)
    centres = numpy.random.default_rng(centres_seed).normal(size=(classes, features)) * 2
    y = random.integers(0, classes, samples)
    x = centres[y] + spread * random.normal(size=(samples, features))
    return {"x": x.astype(numpy.float32), "y": y.astype(numpy.int64)}


def moments(checkpoint):
    """What the optimizer keeps of each parameter, flat, by 'parameter moment', from the parts of all ranks."""
    whole = {}
    for path in checkpoint.glob("optimizer-*.safetensors"):
        header = json.loads(path.read_bytes()[8:8 + int.from_bytes(path.read_bytes()[:8], "little")])
        shards = load_file(path)
        for name, text in header["__metadata__"].items():
            if name not in shards:
                continue
            facts = json.loads(text)
            whole.setdefault(f"{facts['parameter']} {facts['moment']}", []).append((facts["offset"], shards[name]))
    return {name: numpy.concatenate([values for _, values in sorted(parts, key=lambda part: part[0])])
            for name, parts in whole.items()}


class Case(unittest.TestCase):
    """A test with a folder of its own."""

    maxDiff = None

    def setUp(self):
        folder = tempfile.TemporaryDirectory(prefix="rekindle-")
        self.addCleanup(folder.cleanup)
        self.folder = pathlib.Path(folder.name).resolve()

    def skipTest(self, reason):
        print(f"[  SKIPPED ] {self.id()}: {reason} (0 ms)", flush=True)   # as GoogleTest does: scripts/test.sh counts both
        super().skipTest(reason)

    @contextlib.contextmanager
    def small_disk(self, kibibytes):
        place = self.folder / "disk"
        place.mkdir()
        mount = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={kibibytes}k", "tmpfs", place],
                               capture_output=True, text=True)
        if mount.returncode != 0:
            self.skipTest("a small disk needs the right to mount one: " + mount.stderr.strip())
        try:
            yield place
        finally:
            subprocess.run(["umount", place], check=True)

    def write_data(self, data, name="data.safetensors"):
        save_file(data, self.folder / name)
        return self.folder / name

    def write_job(self, text, name="job.toml"):
        path = self.folder / name
        path.write_text(textwrap.dedent(text))
        return path

    def run_well(self, job, *arguments, workers=1, code=0, cwd=None):
        """Runs a job with the launcher; fails with all it said where it does not end with `code`."""
        result = run(launch(job, *arguments, workers=workers), cwd)
        self.assertEqual(result.code, code, result.text)
        return result

    def assert_says(self, result, *words):
        for word in words:
            self.assertIn(word, result.text)
