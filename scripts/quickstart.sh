#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# From a fresh machine to a promoted, warm-started model: sets up, builds, and plays two days of Fashion-MNIST.
# Each call takes a fresh line of runs: runs/fashion, runs/fashion-2, ... QUICKSTART_FAST=1 takes a tenth of the data.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"

job=examples/fashion-mnist.toml
data=/usr/share/datasets/fashion-mnist
day=30000   # samples that arrive in a day, as the job file has it for the first

# increments N: the first N days of data, as an override.
increments() {
  local list="" from
  for ((from = 0; from < $1 * day; from += day)); do
    list+="{ images = \"$data/train-images-idx3-ubyte.gz\", labels = \"$data/train-labels-idx1-ubyte.gz\","
    list+=" range = [$from, $((from + day))] }, "
  done
  echo "data.increments=[$list]"
}

first_day=() every_day=()
if [ -n "${QUICKSTART_FAST:-}" ]; then
  day=3000
  first_day=("$(increments 1)") every_day=(run.duration=2ep)
fi

fresh_line() {
  local line=runs/fashion number=1
  while [ -e $line ] || [ -e $line-day2-cold ]; do
    number=$((number + 1))
    line=runs/fashion-$number
  done
  echo "$root/$line"
}

retrain() {
  printf '\n%s\n$ build/bin/rekindle run %s -n 2%s\n' "$1" "$job" "$(printf " '%s'" "${@:2}")"
  build/bin/rekindle run "$job" -n 2 "${@:2}"
}

# The newest run of the line: their names are the times of their starts.
newest_run() {
  local runs=("$line"/[0-9]*/)
  echo "${runs[-1]%/}"
}

scripts/build.sh rekindle rekindle-worker
line=$(fresh_line)

retrain "Day 1: two workers, nothing is promoted yet" "run.line=$line" "${first_day[@]}" "${every_day[@]}"
day1=$(newest_run)
parent=$(readlink -e "$line/promoted") || die "day 1 promoted nothing"   # what day 2 starts from

retrain "Day 2: one more increment, warm from what is promoted" "run.line=$line" "$(increments 2)" "${every_day[@]}"
warm=$(newest_run)

cold=$line-day2-cold
retrain "Day 2 again, cold and outside the line, for comparison" "run.directory=$cold" "$(increments 2)" \
  warm_start.strategy=cold "warm_start.from=$parent" "${every_day[@]}"

python=.deps/python/bin/python
[ -x $python ] || python=python3
$python scripts/quickstart_table.py "$day1" "$warm" "$cold"
