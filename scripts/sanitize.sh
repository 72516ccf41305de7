#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Builds with sanitizers and runs the tests in C++ under them:
#
#   scripts/sanitize.sh tsan [ROOM...]   ThreadSanitizer, for the rooms without torch (build-tsan/)
#   scripts/sanitize.sh asan [ROOM...]   AddressSanitizer and UndefinedBehaviorSanitizer, for all (build-asan/)
#
# ROOMs are comm, core, data, ...; none: all that have such tests. It builds one file at a time and is nice to others, as
# some files take 3 GB; JOBS=4 changes that.
#
# Left out:
# - ThreadSanitizer for what links torch or MPI: neither is built with it, so it knows nothing of their locks and would
#   report races that are none.
# - ThreadSanitizer for checkpoints_fault_injection_test: one thread that saves some thousand times, each time with a fresh
#   buffer of megabytes that ThreadSanitizer marks byte by byte, for more than ten minutes.
# - The tests in Python and those of the house. They run whole programs as people build them, and wait for them by the clock.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"

# torch's own code does not set the marks that ours sets in containers, and it has several copies of the same globals.
asan=detect_container_overflow=0:detect_odr_violation=0
export UBSAN_OPTIONS=print_stacktrace=1:halt_on_error=1
export TSAN_OPTIONS=halt_on_error=1:second_deadlock_stack=1

usage="scripts/sanitize.sh tsan|asan [ROOM...]"
case ${1:-} in
  tsan) left_out='^checkpoints_fault_injection_test$' ;;
  asan) left_out='^house_' ;;
  *) die "which sanitizer?" "$usage" ;;
esac
preset=$1
shift
any=$(printf '|%s' "${@:-[a-z]+}")
rooms="(${any#|})"

[ "$preset" = tsan ] || scripts/setup.sh
quietly "configure" cmake --preset "$preset"
mapfile -t targets < <(ninja -C "build-$preset" -t targets all | grep -oE "^tests/${rooms}_[a-z0-9_]+: CXX_EXE" | sed 's/:.*//')
[ ${#targets[@]} -gt 0 ] || die "no room of these has tests for $preset: $*"
nice cmake --build --preset "$preset" --parallel "${JOBS:-1}" --target "${targets[@]}"
# ThreadSanitizer finds no room in an address space that is shuffled as far as newer kernels do.
steady=()
if setarch -R true 2>/dev/null; then steady=(setarch -R); fi

# A library that is opened by name while AddressSanitizer watches is not looked for where the program's others are.
torch=$(sed -n 's/^LibTorch_C10_LIBRARY:FILEPATH=//p' "build-$preset/CMakeCache.txt")
[ -z "$torch" ] || export LD_LIBRARY_PATH=${torch%/*}${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
run() { nice "${steady[@]}" ctest --preset "$preset" --timeout 900 -R "^${rooms}_" -E "$left_out" "$@"; }
ASAN_OPTIONS=$asan run --no-tests=error -LE 'e2e|mpi'
# Open MPI frees little at its end, in plugins that are gone by then, so that it cannot be told from ours.
[ "$preset" = tsan ] || ASAN_OPTIONS=$asan:detect_leaks=0 run -L mpi
