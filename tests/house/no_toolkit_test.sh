#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Configures and builds the worker with the machine's own CUDA toolkit hidden, because users have none; and without the
# precompiled header, so that every file includes what it needs. Then no program or library of it may name a toolkit.
set -euo pipefail
source_dir=$1
shopt -s nullglob
toolkits=(/usr/local/cuda* /opt/cuda*)

if [ "${2:-}" != hidden ] && [ ${#toolkits[@]} -gt 0 ]; then
  if ! unshare --mount true 2>/dev/null; then
    echo "skipped: a CUDA toolkit is at ${toolkits[*]}, and this user may not hide it (no mount namespace)"
    exit 77
  fi
  exec unshare --mount "$0" "$source_dir" hidden
fi
for toolkit in "${toolkits[@]}"; do
  [ -L "$toolkit" ] || mount -t tmpfs none "$toolkit"
done
if nvcc --version >/dev/null 2>&1; then echo "nvcc still works: $(command -v nvcc)"; exit 1; fi

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
env -u CUDA_HOME -u CUDA_PATH cmake -S "$source_dir" -B "$work" -G Ninja -DREKINDLE_TESTS=OFF \
  -DCMAKE_DISABLE_PRECOMPILE_HEADERS=ON
cmake --build "$work" --target rekindle rekindle-worker --parallel "$(nproc)"
if grep -q '/usr/local/cuda\|/opt/cuda' "$work/build.ninja"; then echo "the build names a CUDA toolkit"; exit 1; fi
if ldd "$work/bin/rekindle-worker" | grep -E 'not found|/usr/local/cuda|/opt/cuda'; then exit 1; fi
"$work/bin/rekindle" --version
echo "built without a CUDA toolkit"
