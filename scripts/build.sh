#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Sets up what is missing and builds into build/: build/bin/rekindle and build/bin/rekindle-worker.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"

# A file that includes LibTorch's headers takes up to 3 GB to compile.
jobs() {
  local memory cores
  memory=$(awk '/^MemAvailable:/ { print int($2 / 1048576 / 3) }' /proc/meminfo)
  cores=$(nproc)
  echo "$((memory < 1 ? 1 : memory < cores ? memory : cores))"
}

scripts/setup.sh
quietly "configure" cmake --preset release
cmake --build --preset release --parallel "$(jobs)" ${1:+--target "$@"}   # all of it, or what was asked for
