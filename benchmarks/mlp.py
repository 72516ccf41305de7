# SPDX-License-Identifier: Apache-2.0
"""The small MLP (784-100-100-10, 64 samples a worker) on two workers: ours beside PyTorch DDP over gloo, in turn, so that
a machine whose speed drifts meets both alike. Ratios are taken within a round.

  .deps/python/bin/python benchmarks/mlp.py [--rounds 5]      writes benchmarks/results/mlp.md
"""
import argparse
import json
import os
import pathlib
import platform
import statistics
import subprocess
import sys
import tempfile
import time

import torch
from safetensors.torch import save_file

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent
BATCH, WARMUP, STEPS = 64, 500, 2000
JOB = """
[model]
name = "mlp"
hidden = [100, 100]
[data]
path = "data.safetensors"
[batch]
global = {batch}
[optimizer]
name = "sgd"
momentum = 0.9
[schedule]
base_lr = 0.01
[evaluation]
every = "1000000ep"
[checkpoint]
every = "1000000ep"
[run]
directory = "run"
duration = "{steps}ba"
log_every = "{warmup}ba"
"""


def launch(command, folder):
    environment = dict(os.environ, LAUNCHED=repr(time.time()), OMP_NUM_THREADS="1")
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(map(str, command))}\n{done.stdout}{done.stderr}")
    return float(environment["LAUNCHED"]), done.stdout


def ours(workers, folder):
    (folder / "job.toml").write_text(JOB.format(batch=BATCH * workers, steps=WARMUP + STEPS, warmup=WARMUP))
    subprocess.run(["rm", "-rf", folder / "run"], check=True)
    launched, _ = launch([ROOT / "build/bin/rekindle", "run", "job.toml", "-n", str(workers)], folder)
    events = [json.loads(line) for line in (folder / "run/metrics.jsonl").read_text().splitlines()]
    steps = [e for e in events if e["event"] == "step"]
    begin = next(e for e in steps if e["step"] == WARMUP - 1)
    samples = steps[-1]["samples"] - begin["samples"]
    return {"samples_per_s": samples / (steps[-1]["time"] - begin["time"]), "first_step_s": steps[0]["time"] - launched}


def ddp(workers, folder):
    _, out = launch([sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(workers),
                     HERE / "peers/ddp_mlp.py", "--steps", str(STEPS), "--warmup", str(WARMUP)], folder)
    return json.loads(out.splitlines()[-1])


def spread(values, digits):
    return f"{statistics.median(values):.{digits}f} ({min(values):.{digits}f} to {max(values):.{digits}f})"


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    contenders = [("rekindle, 2 workers", ours, 2), ("torch DDP over gloo, 2 workers", ddp, 2),
                  ("rekindle, 1 worker", ours, 1), ("torch DDP over gloo, 1 worker", ddp, 1)]
    seen = {name: [] for name, _, _ in contenders}
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        generator = torch.Generator().manual_seed(0)
        save_file({"x": torch.randn(8192, 784, generator=generator),
                   "y": torch.randint(10, (8192,), generator=generator)}, folder / "data.safetensors")
        for number in range(rounds):
            for name, run, workers in contenders:
                seen[name].append(run(workers, folder))
                print(number + 1, name, seen[name][-1], flush=True)

    mine, theirs = seen["rekindle, 2 workers"], seen["torch DDP over gloo, 2 workers"]
    faster = [m["samples_per_s"] / t["samples_per_s"] for m, t in zip(mine, theirs)]
    sooner = [m["first_step_s"] / t["first_step_s"] for m, t in zip(mine, theirs)]
    processor = next(line.split(":")[1].strip() for line in open("/proc/cpuinfo") if line.startswith("model name"))
    lines = ["# Small MLP, 784-100-100-10, 64 samples a worker", "",
             f"{processor}, {os.cpu_count()} cores, {platform.system()} {platform.release()}, PyTorch {torch.__version__}, "
             f"{rounds} rounds in turn: median (min to max). One thread a worker.", "",
             "| | samples/s | from launch to the end of the first step, s |", "|---|---|---|"]
    for name, rows in seen.items():
        lines.append(f"| {name} | {spread([r['samples_per_s'] for r in rows], 0)} | "
                     f"{spread([r['first_step_s'] for r in rows], 2)} |")
    lines.append(f"| ratio, 2 workers, within a round | {spread(faster, 2)} times | {spread(sooner, 2)} of the time |")
    (HERE / "results").mkdir(exist_ok=True)
    (HERE / "results/mlp.md").write_text("\n".join(lines) + "\n")
    print("\n" + "\n".join(lines))


if __name__ == "__main__":
    main()
