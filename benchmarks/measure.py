# SPDX-License-Identifier: Apache-2.0
"""Starts one contender and reads what it measured."""
import contextlib
import json
import os
import pathlib
import platform
import signal
import socket
import statistics
import subprocess
import tempfile
import threading
import time

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent
PYTHON = ROOT / ".deps/python/bin/python"
PEERS = ROOT / ".deps/peers"
PATIENCE = 600  # seconds after which a contender counts as hung
GLANCE = 0.02   # seconds between two looks at memory


class Failed(Exception):
    pass


class Started:
    """A command that runs, in a session of its own, so that all of it can be ended."""

    def __init__(self, command, folder):
        environment = dict(os.environ, LAUNCHED=repr(time.time()), OMP_NUM_THREADS="1", OMPI_ALLOW_RUN_AS_ROOT="1",
                           OMPI_ALLOW_RUN_AS_ROOT_CONFIRM="1")
        self._command = [str(word) for word in command]
        self._out, self._err = tempfile.TemporaryFile("w+"), tempfile.TemporaryFile("w+")
        self.process = subprocess.Popen(self._command, cwd=folder, env=environment, stdin=subprocess.DEVNULL,
                                        stdout=self._out, stderr=self._err, start_new_session=True)

    def result(self):
        """The JSON that it printed: one value a line."""
        try:
            code = self.process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            code = "none in time"
        finally:
            self.end()
        texts = []
        for file in (self._out, self._err):
            file.seek(0)
            texts.append(file.read())
            file.close()
        values = [json.loads(line) for line in texts[0].splitlines() if line[:1] in "{["]
        if code != 0 or not values:
            raise Failed(f"{' '.join(self._command)}\nexit code {code}\n{texts[0][-2000:]}{texts[1][-2000:]}")
        return values


    def end(self):
        """Ends it and all that it started, where it still runs."""
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()


def run(command, folder):
    return Started(command, folder).result()


def run_at_once(commands, folder):
    started = [Started(command, folder) for command in commands]
    try:
        return [one.result() for one in started]
    finally:
        for one in started:
            one.end()


def torchrun(workers, script, *arguments):
    with socket.socket() as probe:   # a port that nobody listens on
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    return [PYTHON, "-m", "torch.distributed.run", "--nproc-per-node", workers, "--master-port", port,
            HERE / "peers" / script, *arguments]


def mpirun(workers, *command):
    """As it comes: each rank on a core of its own, waiting in a loop. Measured as the fastest all-reduce of MPI's where
    no rank has another thread."""
    return ["mpirun", "-n", workers, *command]


def mpirun_yielding(workers, *command):
    """For ranks with a thread that waits in MPI beside the one that computes, as Horovod's."""
    return ["mpirun", "-n", workers, "--bind-to", "none", "--mca", "pml", "ob1", "--mca", "btl", "self,vader",
            "--mca", "mpi_yield_when_idle", "1", *command]


# Memory.

def _parents():
    parents = {}
    for folder in pathlib.Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            parents[int(folder.name)] = int((folder / "stat").read_text().rsplit(")", 1)[1].split()[1])
    return parents


def _ranks(root):
    """The processes under `root` that started no other."""
    parents = _parents()
    ours = {root}
    for _ in range(8):   # deeper than any launcher
        ours |= {process for process, parent in parents.items() if parent in ours}
    return ours - {parents[process] for process in ours if process in parents} - {root}


def _pss_mib(process):
    with contextlib.suppress(OSError):
        for line in pathlib.Path(f"/proc/{process}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) / 1024
    return 0


def peak_pss_mib(command, folder):
    """The greatest sum over all ranks of their share of the memory that they use: pages that several processes have are
    counted once."""
    started = Started(command, folder)
    peak, ended = [0], threading.Event()

    def look():
        while not ended.wait(GLANCE):
            peak[0] = max(peak[0], sum(map(_pss_mib, _ranks(started.process.pid))))

    watcher = threading.Thread(target=look)
    watcher.start()
    try:
        started.result()
    finally:
        ended.set()
        watcher.join()
    return peak[0]


# What a result says of where it comes from.

def _first_line(*command):
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, check=False)
    return (done.stdout or done.stderr or "unknown").splitlines()[0].strip()


def machine():
    processor = next((line.split(":")[1].strip() for line in open("/proc/cpuinfo") if line.startswith("model name")), "")
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return f"{processor}, {os.cpu_count()} cores, {memory:.0f} GiB, {platform.system()} {platform.release()}"


def versions():
    def of(python, code):
        return _first_line(python, "-c", code)
    commit = _first_line("git", "-C", ROOT, "describe", "--always", "--dirty")
    return (f"{_first_line(ROOT / 'build/bin/rekindle', '--version')} at {commit}, "
            f"PyTorch {of(PYTHON, 'import torch; print(torch.__version__)')}, "
            f"Horovod {of(PEERS / 'bin/python', 'import horovod; print(horovod.__version__)')}, "
            f"{_first_line('mpirun', '--version')}, {_first_line('c++', '--version')}")


def load():
    return os.getloadavg()[0]


# Figures.

def figure(value):
    """With about three digits that count."""
    return f"{value:.{0 if value >= 100 else 1 if value >= 10 else 2 if value >= 0.1 else 4}f}"


def spread(values):
    if not values:
        return "failed"
    return f"{figure(statistics.median(values))} ({figure(min(values))} to {figure(max(values))})"
