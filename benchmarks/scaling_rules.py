# SPDX-License-Identifier: Apache-2.0
"""What the rules of batch scaling are worth: an MLP on Fashion-MNIST, tuned at a batch of 64, trained at 1024 by each of
them, over the same samples. Writes docs/scaling-rules.md.

  .deps/python/bin/python benchmarks/scaling_rules.py [--seeds 5] [--epochs 10]
"""
import argparse
import datetime
import json
import os
import pathlib
import statistics
import subprocess
import tempfile

import measure

REKINDLE = measure.ROOT / "build/bin/rekindle"
DATA = pathlib.Path("/usr/share/datasets/fashion-mnist")
JOB = """
[model]
hidden = [100, 100]
[data]
increments = [{{ images = "{data}/train-images-idx3-ubyte.gz", labels = "{data}/train-labels-idx1-ubyte.gz" }}]
normalize = {{ mean = [0.2860], std = [0.3530] }}
[batch]
global = 64
[optimizer]
{optimizer}
[schedule]
base_lr = {lr}
base_batch = 64
decay = "cosine"
[evaluation]
validation = 0.1
[run]
directory = "run"
duration = "{epochs}ep"
"""
LARGE = "batch.global=1024"
WARM, STEPS = "schedule.warmup=1ep", "schedule.warmup_fixed_in=steps"
BASE_WARM = "schedule.warmup=0.0625ep"   # at 1024, in as many steps, an epoch
OPTIMIZERS = {
    "SGD, momentum 0.9, rate 0.05 at 64": ('name = "sgd"\nmomentum = 0.9', 0.05, {
        "64": [],
        "1024, unscaled": [LARGE],
        "1024, linear": [LARGE, "schedule.lr_scaling=linear"],
        "1024, linear, warm-up of an epoch (Goyal et al. 2017)": [LARGE, "schedule.lr_scaling=linear", WARM],
        "1024, sqrt": [LARGE, "schedule.lr_scaling=sqrt"],
        "1024, sqrt, warm-up of as many steps as at 64 (LEGW)": [LARGE, "schedule.lr_scaling=sqrt", BASE_WARM, STEPS],
    }),
    "AdamW, rate 0.001 at 64": ('name = "adamw"', 0.001, {
        "64": [],
        "1024, unscaled": [LARGE],
        "1024, linear": [LARGE, "schedule.lr_scaling=linear"],
        "1024, linear, warm-up of an epoch": [LARGE, "schedule.lr_scaling=linear", WARM],
        "1024, sqrt": [LARGE, "schedule.lr_scaling=sqrt"],
        "1024, sqrt, warm-up of an epoch": [LARGE, "schedule.lr_scaling=sqrt", WARM],
    }),
    "AdamW, betas 0.95 and 0.99, rate 0.001 at 64": ('name = "adamw"\nbetas = [0.95, 0.99]', 0.001, {
        "64": [],
        "1024, unscaled": [LARGE],
        "1024, sqrt": [LARGE, "schedule.lr_scaling=sqrt"],
        "1024, adam-sqrt (Malladi et al. 2022)": [LARGE, "schedule.lr_scaling=adam-sqrt"],
        "1024, adam-sqrt, warm-up of an epoch": [LARGE, "schedule.lr_scaling=adam-sqrt", WARM],
    }),
}


def train(folder, job, seed, settings):
    """The last scores on validation data: accuracy in percent, loss."""
    subprocess.run(["rm", "-rf", folder / "run"], check=True)
    result = subprocess.run([REKINDLE, "run", job, "-n", "2", f"run.seed={seed}", *settings], capture_output=True, text=True,
                            env=dict(os.environ, OMP_NUM_THREADS="1"))
    if result.returncode != 0:
        said = (result.stdout + result.stderr).splitlines()
        return None, next((line.split(" E ")[1].removeprefix("[0] ") for line in said if " E " in line), "no reason given")
    events = [json.loads(line) for line in (folder / "run/metrics.jsonl").read_text().splitlines()]
    metrics = [event for event in events if event["event"] == "eval"][-1]["metrics"]
    return 100 * metrics["accuracy"], metrics["loss"]


def spread(values, digits):
    deviation = f" ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.{digits}f}{deviation}" if values else ""


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=10)
    a = parser.parse_args()
    lines = ["# What the rules of batch scaling are worth", "",
             f"An MLP 784-100-100-10 on Fashion-MNIST, {a.epochs} epochs, cosine decay, the rate tuned by nobody beyond the usual "
             f"value at a batch of 64. Accuracy on held-out samples and loss there, mean ± standard deviation over {a.seeds} "
             f"seeds. {measure.versions().split(',')[0]}, {datetime.date.today()}; `benchmarks/scaling_rules.py --seeds "
             f"{a.seeds} --epochs {a.epochs}` made it.", ""]
    with tempfile.TemporaryDirectory() as temporary:
        folder = pathlib.Path(temporary)
        for title, (optimizer, lr, rows) in OPTIMIZERS.items():
            job = folder / "job.toml"
            job.write_text(JOB.format(data=DATA, optimizer=optimizer, lr=lr, epochs=a.epochs))
            lines += [f"## {title}", "", "| batch and rule | accuracy, % | loss |", "|---|---|---|"]
            for name, settings in rows.items():
                runs = [train(folder, job, seed, settings) for seed in range(1, a.seeds + 1)]
                failed = [said for accuracy, said in runs if accuracy is None]
                good = [run for run in runs if run[0] is not None]
                rest = ", the others " if good else ""
                failure = f"{len(failed)} of {a.seeds} runs failed ({failed[0]}){rest}" if failed else ""
                lines.append(f"| {name} | {failure}{spread([accuracy for accuracy, _ in good], 2)} | "
                             f"{spread([loss for _, loss in good], 3)} |")
                print(lines[-1], flush=True)
            lines.append("")
    (measure.ROOT / "docs/scaling-rules.md").write_text("\n".join(lines))


if __name__ == "__main__":
    main()
