#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Sets up what is missing, builds and runs all tests. Arguments go to ctest: scripts/test.sh -R launcher
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"

scripts/build.sh

said=build/Testing/said.log
mkdir -p build/Testing
status=0
ctest --preset release --no-tests=error "$@" 2>&1 | tee $said || status=$?

# ctest counts programs; what a program skipped of its cases stands only in its own output.
skipped=$(grep -hE '^\[  SKIPPED \] .* \([0-9]+ ms\)$' build/Testing/Temporary/LastTest.log | sed 's/^.*\] /  /; s/ (.*//' || true)
if [ -n "$skipped" ]; then
  printf '\nskipped: %s cases\n%s\n' "$(wc -l <<<"$skipped")" "$skipped"
fi
printf '\n%s\n' "$(grep -E '^[0-9]+% tests passed' $said || echo 'the tests did not run')"
exit "$status"
