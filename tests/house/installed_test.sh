#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Installs what was built, builds the own-worker example against the installed tree alone, and trains with it.
# Any CUDA toolkit on the machine is hidden: nobody needs one.
set -euo pipefail
source_dir=$1 build_dir=$2
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

cmake --install "$build_dir" --prefix "$work/installed" >"$work/log" || { cat "$work/log"; exit 1; }
cp -r "$source_dir/examples/own-worker" "$work/own"
env -u CUDA_HOME -u CUDA_PATH -u TORCH_ROOT PATH="$(printf %s "$PATH" | tr : '\n' | grep -vi cuda | paste -sd:)" \
  cmake -S "$work/own" -B "$work/own/build" -G Ninja -DCMAKE_BUILD_TYPE=Release \
  -DCMAKE_PREFIX_PATH="$work/installed" -DCMAKE_IGNORE_PREFIX_PATH=/usr/local/cuda
cmake --build "$work/own/build"

"$REKINDLE_PYTHON" - "$work" <<'PYTHON'
import sys, torch
from safetensors.torch import save_file
torch.manual_seed(0)
x = torch.randn(400, 6)
save_file({"x": x, "y": (x.sum(1) > 0).long()}, sys.argv[1] + "/data.safetensors")
PYTHON
cat >"$work/job.toml" <<'TOML'
[model]
name = "my-net"
width = 16
[data]
path = "data.safetensors"
[batch]
global = 20
[schedule]
base_lr = 0.5
[evaluation]
validation = 0.2
[run]
directory = "run"
duration = "10ep"
TOML

"$work/installed/bin/rekindle" run "$work/job.toml" -n 2 --worker "$work/own/build/my-worker"
"$REKINDLE_PYTHON" - "$work/run/metrics.jsonl" <<'PYTHON'
import json, sys
evals = [e for e in map(json.loads, open(sys.argv[1])) if e["event"] == "eval"]
accuracy = evals[-1]["metrics"]["accuracy"]
print(f"own worker: accuracy {evals[0]['metrics']['accuracy']:.3f} -> {accuracy:.3f}")
assert accuracy > 0.9, "the own worker did not learn"
PYTHON
