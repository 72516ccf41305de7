# SPDX-License-Identifier: Apache-2.0
"""Whether bfloat16 costs accuracy: the large MLP on Fashion-MNIST in both precisions, from the same weights over the same
samples. Writes benchmarks/results/bfloat16.md.

  .deps/python/bin/python benchmarks/bfloat16.py [--seeds 3] [--epochs 4] [--samples 20000]
"""
import argparse
import datetime
import pathlib
import sys
import tempfile

import measure
from scaling_rules import DATA, JOB, spread, train


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--samples", type=int, default=20000)
    a = parser.parse_args()
    settings = ["model.hidden=[4096, 4096]", "batch.global=256", "schedule.warmup=0.5ep", "schedule.lr_scaling=sqrt",
                f'data.increments=[{{images="{DATA}/train-images-idx3-ubyte.gz", labels="{DATA}/train-labels-idx1-ubyte.gz", '
                f"range=[0, {a.samples}]}}]"]
    lines = ["# bfloat16 and accuracy", "",
             f"MLP 784-4096-4096-10 on {a.samples:,} samples of Fashion-MNIST, {a.epochs} epochs of SGD with momentum at a batch "
             f"of 256, 2 workers. Scores on held-out samples, each seed and mean ± standard deviation over {a.seeds}. "
             f"{measure.machine()}. {measure.versions().split(',')[0]}, {datetime.date.today()}.", "",
             "| precision | accuracy, % | each seed | loss |", "|---|---|---|---|"]
    with tempfile.TemporaryDirectory() as temporary:
        folder = pathlib.Path(temporary)
        job = folder / "job.toml"
        job.write_text(JOB.format(data=DATA, optimizer='name = "sgd"\nmomentum = 0.9', lr=0.02, epochs=a.epochs))
        for precision in ("float32", "bfloat16"):
            runs = [train(folder, job, seed, [*settings, f"run.precision={precision}"]) for seed in range(1, a.seeds + 1)]
            if any(accuracy is None for accuracy, _ in runs):
                sys.exit(f"{precision}: {next(said for accuracy, said in runs if accuracy is None)}")
            accuracies, losses = zip(*runs)
            each = ", ".join(f"{accuracy:.2f}" for accuracy in accuracies)
            lines.append(f"| {precision} | {spread(accuracies, 2)} | {each} | {spread(losses, 3)} |")
            print(lines[-1], flush=True)
    (measure.HERE / "results/bfloat16.md").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
