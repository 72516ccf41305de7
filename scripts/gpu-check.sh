#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Trains on this machine's GPUs with the worker that is there (it builds nothing) and compares with the CPU: one GPU, and
# all of them where there are more. Then the bandwidth of an all-reduce. Ends with 77 where there is no GPU, which ctest
# counts as skipped.
#
#   scripts/gpu-check.sh [BUILD]    where bin/rekindle-worker is; default: build
#   MPIRUN="mpirun --oversubscribe"   how ranks are started
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"

bin=$(cd "${1:-build}/bin" 2>/dev/null && pwd) || die "there is no ${1:-build}/bin" "build first: scripts/build.sh"
read -ra mpirun <<<"${MPIRUN:-mpirun}"
python=${REKINDLE_PYTHON:-$root/.deps/python/bin/python}
[ -x "$python" ] || python=python3

gpus=$(nvidia-smi --list-gpus 2>/dev/null | grep -c '^GPU' || true)
if [ "$gpus" != 0 ] && [ -n "${CUDA_VISIBLE_DEVICES+set}" ]; then   # as CUDA itself sees it
  gpus=$(tr ',' '\n' <<<"$CUDA_VISIBLE_DEVICES" | grep -c . || true)
fi
if [ "$gpus" = 0 ]; then
  echo "[  SKIPPED ] gpu_check: this machine has no GPU (0 ms)"   # as GoogleTest does: scripts/test.sh counts both
  exit 77
fi
echo "$gpus GPUs: $(nvidia-smi --query-gpu=name,driver_version --format=csv,noheader | sort | uniq -c | tr '\n' ';')"

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# Two classes of noise around two points, no library needed.
"$python" - "$work/data.safetensors" <<'PYTHON'
import array, json, random, struct, sys
random.seed(1)
samples, features = 4096, 784
y = array.array("q", (i % 2 for i in range(samples)))
x = array.array("f", (random.gauss(0.5 if label else -0.5, 2) for label in y for _ in range(features)))
header = json.dumps({"x": {"dtype": "F32", "shape": [samples, features], "data_offsets": [0, 4 * len(x)]},
                     "y": {"dtype": "I64", "shape": [samples], "data_offsets": [4 * len(x), 4 * len(x) + 8 * len(y)]}})
header += " " * (-len(header) % 8)
with open(sys.argv[1], "wb") as f:
    f.write(struct.pack("<Q", len(header)) + header.encode() + x.tobytes() + y.tobytes())
PYTHON

cat >"$work/job.toml" <<'JOB'
[model]
name = "mlp"
hidden = [512, 512]
[data]
kind = "safetensors"
path = "data.safetensors"
[batch]
global = 256
[optimizer]
name = "adamw"
max_grad_norm = 1.0
[schedule]
base_lr = 1e-4
[evaluation]
test = 0
[run]
directory = "run"
duration = "40ba"
log_every = "1ba"
seed = 3
deadline = "60sec"
JOB

# train NAME RANKS [KEY=VALUE ...]
train() {
  local name=$1 ranks=$2
  shift 2
  printf '%-24s ' "$name"
  local began=$SECONDS
  timeout 300 "${mpirun[@]}" -n "$ranks" "$bin/rekindle-worker" "$work/job.toml" "run.directory=$work/$name" "$@" \
    >"$work/$name.log" 2>&1 || { tail -n 30 "$work/$name.log"; die "$name failed"; }
  echo "$ranks workers, $((SECONDS - began)) s"
}

# compare A B TOLERANCE: losses of every step and the weights at the end; 0: to the bit.
compare() {
  "$python" - "$work/$1" "$work/$2" "$3" <<'PYTHON'
import array, json, os, struct, sys
a, b, tolerance = sys.argv[1], sys.argv[2], float(sys.argv[3])
def losses(run):
    events = map(json.loads, open(os.path.join(run, "metrics.jsonl")))
    return [e["loss"] for e in events if e["event"] == "step"]
def weights(run):
    raw = open(os.path.join(run, "checkpoints", "latest", "model.safetensors"), "rb").read()
    return raw, array.array("f", raw[8 + struct.unpack("<Q", raw[:8])[0]:])
mine, theirs = losses(a), losses(b)
(raw_a, w_a), (raw_b, w_b) = weights(a), weights(b)
off_loss = max(abs(x - y) / abs(y) for x, y in zip(mine, theirs))
off_weight = max(abs(x - y) for x, y in zip(w_a, w_b))
print(f"{os.path.basename(a)} against {os.path.basename(b)}: {len(mine)} losses, the last {mine[-1]:.6f}; "
      f"apart by at most {off_loss:.1e} (relative), weights by {off_weight:.1e}")
good = len(mine) == len(theirs) and mine[-1] < mine[0] and (
    raw_a == raw_b if tolerance == 0 else max(off_loss, off_weight) <= tolerance)
sys.exit(0 if good else "that is too much")
PYTHON
}

CUDA_VISIBLE_DEVICES='' train cpu 1
train gpu 1
grep -q 'GPU' "$work/gpu.log" || die "the worker did not say that it is on a GPU" "$(tail -n 5 "$work/gpu.log")"
compare gpu cpu 1e-3
train gpu-any-world-1 1 run.reproducible=any-world
train gpu-any-world-again 1 run.reproducible=any-world
compare gpu-any-world-again gpu-any-world-1 0
if [ "$gpus" -gt 1 ]; then
  train gpu-all "$gpus"
  compare gpu-all cpu 1e-3
  if [ "$gpus" -le 8 ]; then
    train gpu-any-world-all "$gpus" run.reproducible=any-world
    compare gpu-any-world-all gpu-any-world-1 0
  fi
fi

for n in 1 "$gpus"; do
  echo "all-reduce on $n GPUs, bytes and GB/s:"
  "$bin/rekindle" bench allreduce -n "$n" --json | "$python" -c '
import json, sys
for row in json.load(sys.stdin):
    print("  {op:10} {dtype:8} {bytes:>12,} B {ms:10.4f} ms {gb_per_s:8.2f} GB/s".format(**row))'
  [ "$gpus" -gt 1 ] || break
done
