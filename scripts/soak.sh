#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Tries for a long time what tests try for a short one:
#
#   scripts/soak.sh kill N [SEED]   kills a run N times, at random moments of training and saving, each time resumes it on
#                                   another number of workers, and compares the model with that of a run that was left alone
#   scripts/soak.sh flip N [SEED]   flips N bytes, anywhere in any file of a checkpoint: each must be found, and the run must
#                                   go on from the generation before
#   scripts/soak.sh fuzz SECONDS    gives the reader of safetensors whatever libFuzzer makes up (needs clang)
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"

usage="scripts/soak.sh kill|flip N [SEED], scripts/soak.sh fuzz SECONDS"
python=${REKINDLE_PYTHON:-$root/.deps/python/bin/python}
case ${1:-} in
  kill | flip)
    export REKINDLE=${REKINDLE:-$root/build/bin/rekindle} REKINDLE_WORKER=${REKINDLE_WORKER:-$root/build/bin/rekindle-worker}
    [ -x "$REKINDLE_WORKER" ] || die "there is no $REKINDLE_WORKER" "build first: scripts/build.sh"
    exec "$python" tests/end_to_end/soak.py "$@"
    ;;
  fuzz)
    command -v clang++ >/dev/null || die "there is no clang++" "sudo apt-get install clang"
    quietly "configure" cmake --preset fuzz
    cmake --build --preset fuzz
    corpus=build-fuzz/corpus
    mkdir -p "$corpus"
    exec build-fuzz/tests/core_safetensors_fuzz -max_total_time="${2:?$usage}" -max_len=65536 -rss_limit_mb=1024 \
      -timeout=10 -print_final_stats=1 "$corpus" tests/core/safetensors_corpus
    ;;
  *) die "what for?" "$usage" ;;
esac
