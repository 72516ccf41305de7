# SPDX-License-Identifier: Apache-2.0
"""Compares the runs of the quickstart: quickstart_table.py DAY1 WARM COLD, three run directories."""

import json
import math
import sys
from pathlib import Path


class Run:
    def __init__(self, directory):
        self.directory = Path(directory)
        self.verdict = json.loads((self.directory / "verdict.json").read_text())
        lines = (self.directory / "metrics.jsonl").read_text().splitlines()
        events = [json.loads(line) for line in lines]
        self.end = [e for e in events if e["event"] == "end"][-1]
        # (step, accuracy) of the model in training; the parent's scores stand beside them.
        self.validation = [
            (e["step"], e["metrics"]["accuracy"])
            for e in events
            if e["event"] == "eval" and e["set"] == "validation" and e.get("model") != "parent"
        ]

    def steps_to(self, accuracy):
        return next((step for step, reached in self.validation if reached >= accuracy), None)


def interval(share, n):
    """The 95 % interval of a share of n samples, in percent (Wilson 1927)."""
    z = 1.959964
    middle = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return f"{100 * share:.2f} % ({100 * (middle - half):.2f} to {100 * (middle + half):.2f})"


def accuracy(run, data, who):
    scores = run.verdict[data]
    return interval(scores[who], scores["n"]) if scores[who] is not None else "-"


def difference(run, data):
    scores = run.verdict[data]
    if scores["low"] is None:
        return "-"
    return f"{100 * scores['difference']:+.2f} ({100 * scores['low']:+.2f} to {100 * scores['high']:+.2f})"


def relative(path):
    try:
        return str(path.resolve().relative_to(Path.cwd()))
    except ValueError:
        return str(path)


def print_table(rows):
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for number, row in enumerate(rows):
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip())
        if number == 0:
            print("  ".join("-" * width for width in widths))


def main():
    day1, warm, cold = (Run(directory) for directory in sys.argv[1:4])
    target = cold.validation[-1][1]

    def steps_to(run, accuracy):
        step = run.steps_to(accuracy)
        return "not reached" if step is None else str(step)

    old, new = warm.verdict["old"]["n"], warm.verdict["new"]["n"]
    print("\nWhat came of it. Accuracies are on test data that nothing was trained on, with 95 % intervals.\n")
    print_table([
        ("", "day 1 (the parent)", "day 2, warm", "day 2, cold"),
        (f"accuracy, {old} old samples", accuracy(warm, "old", "parent"), accuracy(warm, "old", "child"),
         accuracy(cold, "old", "child")),
        (f"accuracy, {new} new samples", accuracy(warm, "new", "parent"), accuracy(warm, "new", "child"),
         accuracy(cold, "new", "child")),
        ("points above the parent, old", "", difference(warm, "old"), difference(cold, "old")),
        ("points above the parent, new", "", difference(warm, "new"), difference(cold, "new")),
        ("steps", *(str(run.end["step"]) for run in (day1, warm, cold))),
        ("seconds of training", *(f"{run.end['seconds']:.1f}" for run in (day1, warm, cold))),
        (f"steps to {100 * target:.2f} % on validation", "", steps_to(warm, target), steps_to(cold, target)),
        ("steps to within a point of that", "", steps_to(warm, target - 0.01), steps_to(cold, target - 0.01)),
        ("verdict", day1.verdict["verdict"], warm.verdict["verdict"], f"{cold.verdict['verdict']} (outside the line)"),
    ])
    print(f"\n{100 * target:.2f} % is what the cold run ended with on validation data.")
    for name, run in (("warm", warm), ("cold", cold)):
        if run.verdict["reason"]:
            print(f"The {name} run's verdict: {run.verdict['reason']}.")
    print("\nThe runs:")
    for name, run in (("day 1", day1), ("day 2, warm", warm), ("day 2, cold", cold)):
        print(f"  {name:<12} {relative(run.directory)}")
    print(f"  {'promoted':<12} {relative(warm.directory.parent / 'promoted')}")


if __name__ == "__main__":
    main()
