# SPDX-License-Identifier: Apache-2.0
"""What is compared: for each section its contenders, and the ratios that matter."""
import dataclasses
import json
import os
import pathlib
import shutil
import subprocess
import time
from collections.abc import Callable

import measure
from measure import HERE, PEERS, PYTHON, ROOT

REKINDLE = ROOT / "build/bin/rekindle"
FASHION_MNIST = pathlib.Path("/usr/share/datasets/fashion-mnist")
SIZES = [4 << 10, 64 << 10, 1 << 20, 4 << 20, 25 << 20, 100 << 20, 400 << 20]
STEPS = {"mlp": 2500, "fashion": 2500, "mlp-large": 30, "resnet18": 8, "minilm": 15}
TITLES = {"mlp": "MLP 784-100-100-10, 64 a worker", "fashion": "the same on the files of Fashion-MNIST",
          "mlp-large": "MLP 784-4096-4096-10, 64 a worker", "resnet18": "ResNet-18 for 32 x 32 images, 16 a worker",
          "minilm": "encoder of MiniLM's size (22.7 M), 64 tokens, 8 a worker, AdamW"}
OURS = "rekindle, 2 workers"


@dataclasses.dataclass
class Ratio:
    what: str
    of: Callable          # of a round, {contender: figures}
    goal: float
    at_least: bool = True

    def goal_text(self):
        return f"{'>=' if self.at_least else '<='} {self.goal:g}"


@dataclasses.dataclass
class Section:
    name: str
    title: str
    contenders: dict[str, Callable]   # name: () -> {figure: value}
    columns: dict[str, str]           # heading: figure
    ratios: list[Ratio]


# Ours: jobs on synthetic data that the folder holds.

JOB = """
[model]
{model}
[data]
{data}
[batch]
global = {batch}
[optimizer]
{optimizer}
[schedule]
base_lr = {lr}
[run]
directory = "run"
duration = "1000ep"
"""
SGD = 'name = "sgd"\nmomentum = 0.9'
MODELS = {"mlp": 'name = "mlp"\nhidden = [100, 100]', "mlp-large": 'name = "mlp"\nhidden = [4096, 4096]',
          "resnet18": 'name = "resnet18"', "minilm": 'name = "minilm"'}
BATCH = {"mlp": 64, "fashion": 64, "mlp-large": 64, "resnet18": 16, "minilm": 8}


def write_data(folder):
    """Run once, by the Python that has torch. Labels of all classes are there."""
    code = """
import sys, torch, workloads
from safetensors.torch import save_file
for name, workload, count in (("mlp", "mlp", 8192), ("resnet18", "resnet18", 2048), ("minilm", "minilm", 4096)):
    x, y = workloads.samples(workload, count)
    save_file({"x": x, "y": y}, sys.argv[1] + "/" + name + ".safetensors")
"""
    subprocess.run([PYTHON, "-c", code, folder], check=True, env={"PYTHONPATH": str(HERE / "peers")})


def job(folder, workload, workers):
    path = folder / f"{workload}-{workers}.toml"
    if workload == "fashion":
        data = (f'increments = [{{ images = "{FASHION_MNIST}/train-images-idx3-ubyte.gz", '
                f'labels = "{FASHION_MNIST}/train-labels-idx1-ubyte.gz" }}]\n'
                "normalize = { mean = [0.2860], std = [0.3530] }")
    else:
        data = f'path = "{"mlp" if workload == "mlp-large" else workload}.safetensors"'
    adamw = workload == "minilm"
    path.write_text(JOB.format(model=MODELS["mlp" if workload == "fashion" else workload], data=data,
                               batch=BATCH[workload] * workers, optimizer='name = "adamw"' if adamw else SGD,
                               lr=5e-5 if adamw else 0.01))
    return path


def ours_command(folder, workload, workers, *overrides, steps=None):
    worker = ["--worker", ROOT / "build/bin/minilm-worker"] if workload == "minilm" else []
    return [REKINDLE, "bench", "step", job(folder, workload, workers), "-n", workers, "--steps",
            steps or STEPS[workload], "--json", *worker, *overrides]


def ours(folder, workload, workers, *overrides):
    return lambda: measure.run(ours_command(folder, workload, workers, *overrides), folder)[0]


def ours_twice(folder, workload):
    """Two runs of one worker at the same time: what two workers would do that need not agree."""
    def run():
        both = measure.run_at_once([ours_command(folder, workload, 1)] * 2, folder)
        return {"samples_per_s": sum(results[0]["samples_per_s"] for results in both)}
    return run


# The peers.

# What our launcher and worker set for themselves: large pages, and freed memory that is kept.
KEEPS_MEMORY = ["env", "GLIBC_TUNABLES=glibc.malloc.hugetlb=1:glibc.malloc.mmap_max=0:glibc.malloc.top_pad=67108864:"
                "glibc.malloc.trim_threshold=1099511627776"]


def ddp(folder, workload, *arguments, workers=2, prefix=()):
    return lambda: measure.run([*prefix, *measure.torchrun(workers, "train_torch.py", "--workload", workload, "--steps",
                                                           STEPS[workload], *arguments)], folder)[0]


def eager(folder, workload):
    return lambda: measure.run([PYTHON, HERE / "peers/train_torch.py", "--single", "--workload", workload, "--steps",
                                STEPS[workload]], folder)[0]


def horovod(folder, workload):
    return lambda: measure.run(measure.mpirun_yielding(2, PEERS / "bin/python", HERE / "peers/train_horovod.py",
                                                       "--workload", workload, "--steps", STEPS[workload]), folder)[0]


def faster(than, ours_name=OURS):
    return lambda figures: figures[ours_name]["samples_per_s"] / figures[than]["samples_per_s"]


# Sections.

TRAINING = {"samples/s": "samples_per_s", "ms a step": "ms_per_step",
            "s from launch to the end of the first step": "first_step_s"}
DDP, HOROVOD, EAGER = "torch DDP over gloo, 2 workers", "Horovod over MPI, 2 workers", "torch, one process"


def training(folder, workload, over_ddp, over_horovod):
    contenders = {OURS: ours(folder, workload, 2), DDP: ddp(folder, workload), HOROVOD: horovod(folder, workload),
                  "rekindle, 1 worker": ours(folder, workload, 1), EAGER: eager(folder, workload)}
    if workload != "mlp":   # where memory is what a step is made of
        contenders[f"{DDP}, with our settings of malloc"] = ddp(folder, workload, prefix=KEEPS_MEMORY)
    ratios = [Ratio("times DDP", faster(DDP), over_ddp), Ratio("times Horovod", faster(HOROVOD), over_horovod)]
    if workload == "mlp":
        ratios.append(Ratio("a step of 2 workers over one of 1",
                            lambda f: f[OURS]["ms_per_step"] / f["rekindle, 1 worker"]["ms_per_step"], 1.25, False))
        ratios.append(Ratio("first step: share of DDP's time",
                            lambda f: f[OURS]["first_step_s"] / f[DDP]["first_step_s"], 0.4, False))
    return Section(workload, TITLES[workload], contenders, TRAINING, ratios)


def fashion(folder):
    loader, tensor = "DDP, Dataset + DataLoader + DistributedSampler", "DDP, one tensor in memory"
    contenders = {OURS: ours(folder, "fashion", 2)}
    for name, data in ((loader, "loader"), (tensor, "tensor")):
        contenders[name] = ddp(folder, "mlp", "--data", data, "--fashion-mnist", FASHION_MNIST)
    ratios = [Ratio("times DDP with a DataLoader", faster(loader), 6),
              Ratio("times DDP with a tensor", faster(tensor), 4)]
    return Section("fashion", TITLES["fashion"], contenders, TRAINING, ratios)


def efficiency(folder):
    contenders, ratios = {}, []
    for workload in ("mlp-large", "resnet18", "minilm"):
        one, two = f"{workload}: one run of two workers", f"{workload}: two runs of one at the same time"
        contenders |= {one: ours(folder, workload, 2), two: ours_twice(folder, workload)}
        ratios.append(Ratio(f"{workload}, efficiency", faster(two, one), 0.95))
    return Section("efficiency", "What working together costs", contenders, {"samples/s": "samples_per_s"}, ratios)


def memory(folder):
    mine = ours_command(folder, "mlp-large", 2, "optimizer.name=adamw", steps=10)
    mine_job = pathlib.Path(mine[3])
    mine_job_text = mine_job.read_text().replace(SGD, "")   # momentum goes with sgd alone
    mine[3] = mine_job.with_name("mlp-large-adamw.toml")
    mine[3].write_text(mine_job_text)
    theirs = measure.torchrun(2, "train_torch.py", "--workload", "mlp-large", "--steps", 10, "--optimizer", "adamw")
    contenders = {OURS: lambda: {"mib": measure.peak_pss_mib(mine, folder)},
                  DDP: lambda: {"mib": measure.peak_pss_mib(theirs, folder)}}
    ratio = Ratio("share of DDP's memory", lambda f: f[OURS]["mib"] / f[DDP]["mib"], 0.6, False)
    return Section("memory", "Peak memory of both workers, large MLP with AdamW (sum of PSS)", contenders,
                   {"MiB": "mib"}, [ratio])


def any_world(folder):
    contenders, ratios = {}, []
    for workload in ("mlp-large", "resnet18"):
        passes = f"batch.microbatch={BATCH[workload] * 2 // 8}"   # as any-world cuts it, for 8 virtual workers
        fast, exact = f"{workload}: fast", f"{workload}: any-world"
        contenders |= {fast: ours(folder, workload, 2, passes),
                       exact: ours(folder, workload, 2, passes, "run.reproducible=any-world")}
        ratios.append(Ratio(f"{workload}, time of any-world over fast",
                            lambda f, fast=fast, exact=exact: f[exact]["ms_per_step"] / f[fast]["ms_per_step"], 1.05,
                            at_least=False))
    return Section("any-world", "What the same bits on any number of workers cost", contenders,
                   {"ms a step": "ms_per_step"}, ratios)


def all_reduce(folder):
    def figures(rows):
        return {f"{row['op']} {row['bytes']}": row["ms"] for row in rows}

    def mine():
        return figures(measure.run([REKINDLE, "bench", "allreduce", "-n", 2, "--bytes", ",".join(map(str, SIZES)),
                                    "--seconds", 0.3, "--json"], folder)[0])
    mpi, gloo = "MPI_Allreduce, in place", "gloo"
    contenders = {OURS: mine,
                  mpi: lambda: figures(measure.run(measure.mpirun(2, PEERS / "allreduce_mpi", 0.3, *SIZES), folder)),
                  gloo: lambda: figures(measure.run(measure.torchrun(2, "allreduce_gloo.py", 0.3, *SIZES), folder))}
    columns = {f"{text(size)}, ms": f"allreduce {size}" for size in SIZES}
    ratios = []
    for size in SIZES:
        goal = 2.5 if size < 1 << 20 else 3 if size < 25 << 20 else 5
        for peer, name in ((mpi, "MPI"), (gloo, "gloo")):
            ratios.append(Ratio(f"{text(size)}, times {name}", lambda f, peer=peer, size=size:
                                f[peer][f"allreduce {size}"] / f[OURS][f"allreduce {size}"], goal))
    for size in (s for s in SIZES if s >= 25 << 20):
        ratios.append(Ratio(f"{text(size)}, bytes a second over memcpy's", lambda f, size=size:
                            f[OURS][f"memcpy {size}"] / f[OURS][f"allreduce {size}"], 1.3))
    return Section("allreduce", "All-reduce of float32 on 2 workers", contenders, columns, ratios)


# Starting and saving: 1 GB each, the file in the page cache.

START_HIDDEN, SAVE_HIDDEN = "9000,9000,9000,9000", "6200,6200,6200"   # 250 M weights; 82 M, with their moments of AdamW
CHECKPOINT_JOB = """
[model]
hidden = [{hidden}]
[data]
path = "few.safetensors"
[batch]
global = 8
[optimizer]
name = "{optimizer}"
[schedule]
base_lr = 0.001
[run]
directory = "{directory}"
duration = "{steps}ba"
"""


def checkpoint_job(folder, name, hidden, optimizer, steps):
    if not (folder / "few.safetensors").exists():
        code = ("import sys, torch; from safetensors.torch import save_file; "
                "save_file({'x': torch.rand(512, 784), 'y': torch.arange(512) % 10}, sys.argv[1])")
        subprocess.run([PYTHON, "-c", code, folder / "few.safetensors"], check=True)
    path = folder / f"{name}.toml"
    path.write_text(CHECKPOINT_JOB.format(hidden=hidden, optimizer=optimizer, directory=name, steps=steps))
    return path


def events_of(folder, name, job, workers, *overrides):
    """What a run of ours says of itself; the run is removed."""
    subprocess.run([REKINDLE, "run", job, "-n", str(workers), *overrides], cwd=folder, check=True, capture_output=True,
                   env=dict(os.environ, OMP_NUM_THREADS="1"))
    lines = (folder / name / "metrics.jsonl").read_text().splitlines()
    shutil.rmtree(folder / name)
    return [json.loads(line) for line in lines]


def peer(folder, case, hidden, workers=0):
    """A case of peers/checkpoints.py; without workers it is one process."""
    file = folder / f"weights-{hidden.replace(',', '-')}.pt"
    arguments = ["--file", file, "--case", case, "--hidden", hidden]

    def run():
        if case in ("all-load", "rank0-broadcast") and not file.exists():
            subprocess.run([PYTHON, HERE / "peers/checkpoints.py", *arguments[:3], "prepare", *arguments[4:]], check=True,
                           capture_output=True)
        command = ([PYTHON, HERE / "peers/checkpoints.py", *arguments] if workers == 0
                   else measure.torchrun(workers, "checkpoints.py", *arguments))
        figures = measure.run(command, folder)[0]
        for left in folder.glob("*.dcp-*"):
            shutil.rmtree(left)
        return figures
    return run


def start(folder):
    """Weights of 1 GB: from the file to all workers, verified."""
    parent = checkpoint_job(folder, "parent", START_HIDDEN, "sgd", 1)
    child = checkpoint_job(folder, "child", START_HIDDEN, "sgd", 1)
    model = folder / "parent/checkpoints/latest/model.safetensors"

    def has_parent():
        if not model.exists():
            subprocess.run([REKINDLE, "run", parent], cwd=folder, check=True, capture_output=True)
        model.read_bytes()   # into the page cache

    def ours_warm(workers):
        def run():
            has_parent()
            events = events_of(folder, "child", child, workers, "warm_start.from=parent", "checkpoint.verify=false")
            return {"s": next(event["seconds"] for event in events if event["event"] == "warm_start")}
        return run

    def read():
        has_parent()
        return measure.run([PYTHON, HERE / "peers/checkpoints.py", "--file", model, "--case", "plain-read", "--hidden",
                            START_HIDDEN], folder)[0]

    plain, loads, expert = "the file read once, one process", "DDP, torch.load on each rank", \
        "DDP, rank 0 maps and broadcasts each tensor"
    contenders = {OURS: ours_warm(2), "rekindle, 1 worker": ours_warm(1), plain: read,
                  loads: peer(folder, "all-load", START_HIDDEN, 2), expert: peer(folder, "rank0-broadcast", START_HIDDEN, 2)}
    ratios = [Ratio("time over the plain read's", lambda f: f[OURS]["s"] / f[plain]["s"], 1.5, False),
              Ratio("times DDP with torch.load", lambda f: f[loads]["s"] / f[OURS]["s"], 4),
              Ratio("times DDP with broadcasts", lambda f: f[expert]["s"] / f[OURS]["s"], 1.5)]
    return Section("start", "Warm start, 250 M parameters (1.0 GB)", contenders, {"s": "s"}, ratios)


def save(folder):
    """Weights and moments of 1 GB."""
    job = checkpoint_job(folder, "saving", SAVE_HIDDEN, "adamw", 50)   # so that one save is done before the next is due

    def ours_save(workers, *settings):
        def run():
            events = events_of(folder, "saving", job, workers, "checkpoint.every=25ba", *settings)
            saves = [event for event in events if event["event"] == "checkpoint"]
            return {"s": min(event["stall_ms"] for event in saves) / 1e3, "whole_s": min(event["seconds"] for event in saves)}
        return run

    one, two = "rekindle, 1 worker", OURS
    waiting, verified = "rekindle, 1 worker, in the foreground, not read back", "rekindle, 1 worker, in the foreground"
    copy, written, saved, dcp1, dcp2 = "memcpy", "write and fsync", "torch.save", "DCP async_save, 1 rank", \
        "DCP async_save, 2 ranks"
    contenders = {one: ours_save(1), two: ours_save(2),
                  waiting: ours_save(1, "checkpoint.background=false", "checkpoint.verify=false"),
                  verified: ours_save(1, "checkpoint.background=false"),
                  copy: peer(folder, "memcpy", SAVE_HIDDEN), written: peer(folder, "write-fsync", SAVE_HIDDEN),
                  saved: peer(folder, "torch-save", SAVE_HIDDEN), dcp1: peer(folder, "dcp-async", SAVE_HIDDEN, 1),
                  dcp2: peer(folder, "dcp-async", SAVE_HIDDEN, 2)}
    ratios = [Ratio("stall over memcpy's time", lambda f: f[one]["s"] / f[copy]["s"], 1.3, False),
              Ratio("torch.save's time over the stall", lambda f: f[saved]["s"] / f[one]["s"], 3),
              Ratio("torch.save's time over the stall of 2 workers", lambda f: f[saved]["s"] / f[two]["s"], 6),
              Ratio("async_save's stall over ours", lambda f: f[dcp1]["s"] / f[one]["s"], 2.5),
              Ratio("the same, 2 ranks", lambda f: f[dcp2]["s"] / f[two]["s"], 5),
              Ratio("whole save over write and fsync", lambda f: f[waiting]["whole_s"] / f[written]["s"], 1.15, False),
              Ratio("the same, read back", lambda f: f[verified]["whole_s"] / f[written]["s"], 1.8, False)]
    return Section("save", "Saving 82 M parameters with their moments (1.0 GB)", contenders,
                   {"stall, s": "s", "until it is on the disk, s": "whole_s"}, ratios)


RESUME_JOB = """
[model]
name = "logistic"
[data]
path = "many.safetensors"
[batch]
global = 100_000
[schedule]
base_lr = 0.001
[checkpoint]
every = "{every}"
[run]
directory = "{directory}"
duration = "{steps}ba"
"""


def resume(folder):
    """One more step after 10^9 samples, and after none but the first step's."""
    def resumed(name, steps):
        def run():
            job = folder / f"{name}.toml"
            job.write_text(RESUME_JOB.format(every=f"{steps}ba", directory=name, steps=steps))
            if not (folder / "many.safetensors").exists():
                code = ("import sys, torch; from safetensors.torch import save_file; "
                        "save_file({'x': torch.rand(100_000, 4), 'y': torch.arange(100_000) % 10}, sys.argv[1])")
                subprocess.run([PYTHON, "-c", code, folder / "many.safetensors"], check=True)
            if not (folder / name).exists():
                subprocess.run([REKINDLE, "run", job, "-n", "2"], cwd=folder, check=True, capture_output=True)
            return {"s": min(resume_once(job, folder / name, steps) for _ in range(5))}   # half a second each
        return run

    def resume_once(job, directory, steps):
        copy = directory.with_name("resumed")
        shutil.copytree(directory, copy, symlinks=True)
        begin = time.monotonic()
        subprocess.run([REKINDLE, "run", job, "-n", "2", f"run.directory={copy}", f"run.duration={steps + 1}ba"], cwd=folder,
                       check=True, capture_output=True, env=dict(os.environ, OMP_NUM_THREADS="1"))
        took = time.monotonic() - begin
        last = json.loads((copy / "checkpoints/latest/state.json").read_text())
        assert last["samples"] == 100_000 * (steps + 1), last
        shutil.rmtree(copy)
        return took

    early, late = "resumed after 1 step, 10^5 samples", "resumed after 10,000 steps, 10^9 samples"
    contenders = {early: resumed("early", 1), late: resumed("late", 10_000)}
    return Section("resume", "Resume, from the command to its end, one step", contenders, {"s": "s"},
                   [Ratio("time at 10^9 over that at the beginning", lambda f: f[late]["s"] / f[early]["s"], 1.05, False)])


def optimizer(folder):
    """The update of 20 M parameters, from the summed gradient on."""
    contenders, ratios = {}, []
    for name, keys in (("sgd", ["optimizer.momentum=0.9"]), ("adamw", [])):
        def ours_of(workers, name=name, keys=keys):
            def run():
                job = checkpoint_job(folder, "updates", "4096,4096", name, 1)
                return measure.run([REKINDLE, "bench", "optimizer", job, "-n", str(workers), "--json", *keys,
                                    "optimizer.weight_decay=0.01", "optimizer.no_decay=[]"], folder)[0]
            return run

        def torch_of(name=name):
            return lambda: measure.run([PYTHON, HERE / "peers/optimizer.py", "--hidden", "4096,4096", "--name", name], folder)[0]

        def halves(name=name):
            """What the memory of the machine allows: two processes that have nothing to do with each other."""
            command = [PYTHON, HERE / "peers/optimizer.py", "--flat", 20037642 // 2, "--name", name]
            return lambda: {"ms": max(results[0]["ms"] for results in measure.run_at_once([command] * 2, folder))}

        one, two, peer_name = f"{name}, 1 worker", f"{name}, 2 workers", f"{name}, torch.optim fused"
        alone = f"{name}, two processes of torch.optim at once, half of the parameters each"
        contenders |= {one: ours_of(1), two: ours_of(2), peer_name: torch_of(), alone: halves()}
        ratios += [Ratio(f"{name}: 1 worker over torch.optim", lambda f, a=one, b=peer_name: f[a]["ms"] / f[b]["ms"], 1, False),
                   Ratio(f"{name}: 2 workers over torch.optim", lambda f, a=two, b=peer_name: f[a]["ms"] / f[b]["ms"], 0.6,
                         False),
                   Ratio(f"{name}: the two processes over torch.optim", lambda f, a=alone, b=peer_name: f[a]["ms"] / f[b]["ms"],
                         0.6, False)]
    return Section("optimizer", "Update of 20.0 M parameters", contenders, {"ms": "ms"}, ratios)


def precision(folder):
    """The same steps in bfloat16 and in float32, where the processor has instructions for it or not."""
    def of(workload, precision):
        return ours(folder, workload, 1, f'run.precision="{precision}"')
    contenders, ratios = {}, []
    for workload in ("mlp-large", "resnet18"):
        names = {p: f"{TITLES[workload]}, {p}" for p in ("float32", "bfloat16")}
        contenders |= {names[p]: of(workload, p) for p in names}
        ratios.append(Ratio(f"{TITLES[workload]}: samples/s of bfloat16 over float32",
                            lambda f, n=names: f[n["bfloat16"]]["samples_per_s"] / f[n["float32"]]["samples_per_s"], 2))
    return Section("precision", "bfloat16 against float32, 1 worker", contenders, {"samples/s": "samples_per_s"}, ratios)


def text(size):
    return f"{size >> 20} MiB" if size >= 1 << 20 else f"{size >> 10} KiB"


SECTIONS = {"allreduce": all_reduce, "mlp": lambda folder: training(folder, "mlp", 4, 2), "fashion": fashion,
            "mlp-large": lambda folder: training(folder, "mlp-large", 1.6, 1.5),
            "resnet18": lambda folder: training(folder, "resnet18", 1.25, 1.25),
            "minilm": lambda folder: training(folder, "minilm", 1.25, 1.25),
            "efficiency": efficiency, "memory": memory, "any-world": any_world, "start": start, "save": save, "resume": resume,
            "optimizer": optimizer, "precision": precision}
