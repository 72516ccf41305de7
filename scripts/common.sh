# shellcheck shell=bash
# SPDX-License-Identifier: Apache-2.0
# What the scripts share. To be sourced; moves to the root of the project.
cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit
root=$PWD

die() {
  printf '%s: %s\n' "$(basename "$0")" "$1" >&2
  shift
  for line in "$@"; do printf '  %s\n' "$line" >&2; done
  exit 1
}

# quietly PHASE COMMAND...: one line for the phase; what the command says goes to a log named by its first word, whose
# end is shown on failure.
quietly() {
  local phase=$1 log="$root/.deps/logs/${1%% *}.log" began=$SECONDS
  shift
  mkdir -p "$root/.deps/logs"
  printf '%s ... ' "$phase"
  if "$@" >"$log" 2>&1 </dev/null; then
    printf 'done (%s s)\n' "$((SECONDS - began))"
  else
    printf 'failed\n'
    tail -n 40 "$log" >&2
    die "$phase failed" "all it said: $log"
  fi
}
