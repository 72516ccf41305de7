# SPDX-License-Identifier: Apache-2.0
"""Ours and the peers', side by side: every round runs each contender once, in turn, so that a machine whose speed drifts
meets all alike, and ratios are taken within a round. Writes benchmarks/results/NAME.md for each section and, where all
of them ran, goals.md.

  benchmarks/setup-peers.sh && ninja -C build rekindle rekindle-worker minilm-worker
  .deps/python/bin/python benchmarks/run.py [--rounds 5] [--only mlp,memory]

On two cores a round takes about six minutes. Nothing else should run meanwhile; the load before each round is in the
results.
"""
import argparse
import datetime
import json
import pathlib
import statistics
import sys
import tempfile

import measure
import sections

RESULTS = measure.HERE / "results"


def check_ready(names):
    needed = [sections.REKINDLE, measure.ROOT / "build/bin/rekindle-worker", measure.ROOT / "build/bin/minilm-worker",
              measure.PEERS / "bin/python", measure.PEERS / "allreduce_mpi"]
    if "fashion" in names:
        needed.append(sections.FASHION_MNIST)
    missing = [str(path) for path in needed if not path.exists()]
    if missing:
        sys.exit(f"missing: {', '.join(missing)}\nrun benchmarks/setup-peers.sh and\n"
                 "  ninja -C build rekindle rekindle-worker minilm-worker")


def run_round(number, chosen, seen, log):
    """{section: {contender: figures}} of one round; contenders that failed are left out, and named."""
    for section in chosen:
        figures = {}
        names = list(section.contenders)
        for name in names[number % len(names):] + names[:number % len(names)]:   # each begins a round once
            try:
                figures[name] = section.contenders[name]()
                print(f"round {number + 1}, {section.name}, {name}: {figures[name]}", flush=True)
            except measure.Failed as failure:
                print(f"round {number + 1}, {section.name}, {name} FAILED\n{failure}", flush=True)
            log.write(json.dumps({"round": number + 1, "section": section.name, "contender": name,
                                  "figures": figures.get(name)}) + "\n")
            log.flush()
        seen[section.name].append(figures)


def values_of(ratio, rounds):
    values = []
    for figures in rounds:
        try:
            values.append(ratio.of(figures))
        except KeyError:   # one of the two failed in that round
            continue
    return values


def verdict(ratio, values):
    if not values:
        return "not measured"
    median = statistics.median(values)
    return "reached" if (median >= ratio.goal if ratio.at_least else median <= ratio.goal) else "missed"


def ratio_lines(section, rounds):
    lines = []
    for ratio in section.ratios:
        values = values_of(ratio, rounds)
        lines.append(f"| {ratio.what} | {measure.spread(values)} | {ratio.goal_text()} | {verdict(ratio, values)} |")
    return lines


def write_section(section, rounds, origin):
    lines = [f"# {section.title}", "", origin, "", f"| | {' | '.join(section.columns)} |",
             "|---" * (len(section.columns) + 1) + "|"]
    for name in section.contenders:
        cells = []
        for figure in section.columns.values():
            values = [figures[name][figure] for figures in rounds if figure in figures.get(name, {})]
            cells.append(measure.spread(values))
        lines.append(f"| {name} | {' | '.join(cells)} |")
    lines += ["", "| ratio within a round | median (least to greatest) | goal | |", "|---|---|---|---|",
              *ratio_lines(section, rounds)]
    (RESULTS / f"{section.name}.md").write_text("\n".join(lines) + "\n")
    print("\n" + "\n".join(lines), flush=True)


def write_goals(chosen, seen, origin):
    lines = ["# All goals", "", origin, "", "| | ratio within a round | goal | |", "|---|---|---|---|"]
    for section in chosen:
        lines += [f"| **[{section.title}]({section.name}.md)** | | | |", *ratio_lines(section, seen[section.name])]
    (RESULTS / "goals.md").write_text("\n".join(lines) + "\n")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", help=f"of {','.join(sections.SECTIONS)}")
    a = parser.parse_args()
    names = a.only.split(",") if a.only else list(sections.SECTIONS)
    if unknown := [name for name in names if name not in sections.SECTIONS]:
        parser.error(f"there is no section {', '.join(unknown)}")
    check_ready(names)

    RESULTS.mkdir(exist_ok=True)
    loads = []
    with tempfile.TemporaryDirectory(prefix="rekindle-benchmarks-") as temporary:
        folder = pathlib.Path(temporary)
        sections.write_data(folder)
        chosen = [sections.SECTIONS[name](folder) for name in names]
        seen = {section.name: [] for section in chosen}
        with open(RESULTS / "rounds.log", "a") as log:
            for number in range(a.rounds):
                loads.append(measure.load())
                run_round(number, chosen, seen, log)

    origin = (f"{measure.machine()}. {measure.versions()}. {datetime.date.today()}, {a.rounds} rounds in turn, each figure "
              f"the median (least to greatest); one thread a worker. Load before each round: "
              f"{', '.join(f'{load:.1f}' for load in loads)}.")
    for section in chosen:
        write_section(section, seen[section.name], origin)
    if len(chosen) == len(sections.SECTIONS):
        write_goals(chosen, seen, origin)


if __name__ == "__main__":
    main()
