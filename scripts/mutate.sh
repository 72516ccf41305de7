#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Do the tests notice when a feature is gone? Each patch of tests/mutations takes one out; the tests that it names must
# be green without it and red with it, every one of them. It works on a copy of the tree, which stays for the next time.
#
#   scripts/mutate.sh [NAME ...]   those of tests/mutations/NAME.patch; default: all
#   MUTATE_DIR=PATH                where the copy and its build are; default: a folder in /tmp
#
# A patch begins with what this script reads:
#   # what: one line that says what is taken out
#   # targets: what has to be built for the tests
#   # test: a regular expression for names of tests, as ctest -R takes it
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"

place=${MUTATE_DIR:-${TMPDIR:-/tmp}/rekindle-mutate-$(id -u)}
tree=$place/tree build=$place/build logs=$place/logs
# A file that includes LibTorch's headers takes up to 3 GB to compile.
export CMAKE_BUILD_PARALLEL_LEVEL=${CMAKE_BUILD_PARALLEL_LEVEL:-$((($(nproc) + 1) / 2))}

field() { sed -n "s/^# $1: *//p" "$2"; }

fields_of_all() {
  for patch in "${patches[@]}"; do field "$1" "$patch"; done
}

find_patches() {
  patches=()
  if [ $# = 0 ]; then patches=(tests/mutations/*.patch); fi
  for name in "$@"; do patches+=("tests/mutations/$name.patch"); done
  for patch in "${patches[@]}"; do
    [ -f "$patch" ] || die "there is no $patch" "there are: $(basename -s .patch -a tests/mutations/*.patch | xargs)"
    for key in what targets test; do
      [ -n "$(field $key "$patch")" ] || die "$patch has no line '# $key: ...'"
    done
  done
}

take_place() {
  mkdir -p "$place"
  [ -O "$place" ] || die "$place belongs to somebody else" "give MUTATE_DIR a folder of your own"
  mkdir -p "$logs"
  exec 9>"$place/lock"
  flock -n 9 || die "another call works in $place" "wait for it, or give MUTATE_DIR another folder"
}

# The files of the checkout as they are now. Only what differs is touched, so only that is built again, also after a
# call that was killed and left a patch behind.
copy_tree() {
  local wanted=$place/wanted
  mkdir -p "$tree"
  git ls-files --cached --others --exclude-standard | while IFS= read -r file; do
    if [ -f "$file" ]; then echo "$file"; fi   # not what was deleted and not committed yet
  done | sort >"$wanted"
  (cd "$tree" && find . -type f -printf '%P\n' | sort | comm -13 "$wanted" - | xargs -r -d '\n' rm)
  while IFS= read -r file; do
    cmp -s "$file" "$tree/$file" || cp --parents "$file" "$tree"
  done <"$wanted"
}

configure() {
  local torch=${TORCH_ROOT:-}
  [ -n "$torch" ] || torch=$(echo "$root"/.deps/python/lib/python3*/site-packages/torch)
  cmake -S "$tree" -B "$build" -G Ninja -DCMAKE_BUILD_TYPE=Release -DTORCH_ROOT="$torch" \
    -DREKINDLE_PYTHON="${REKINDLE_PYTHON:-$root/.deps/python/bin/python}"
}

build() { cmake --build "$build" --target "$@"; }

run_tests() { ctest --test-dir "$build" --no-tests=error --output-on-failure -R "$1"; }

check_green() {
  local targets tests
  mapfile -t targets < <(fields_of_all targets | tr ' ' '\n' | sort -u)
  tests=$(fields_of_all test | sort -u | paste -sd '|')
  quietly "build without any patch" build "${targets[@]}"
  quietly "tests without any patch" run_tests "$tests"
}

# What ctest said of each test: "2/3 Test #17: comm_thread_test ....***Failed  0.10 sec" becomes
# "comm_thread_test ***Failed".
outcomes() {
  sed -nE 's/^ *[0-9]+\/[0-9]+ Test +#[0-9]+: ([^ ]+) \.* *(.*[^ ]) +[0-9.]+ sec.*$/\1 \2/p'
}

# Prints how the tests took a patch that stands in the tree: "found" is what is wanted.
outcome_of() {
  local patch=$1 log=$2 targets all green
  read -ra targets <<<"$(field targets "$patch")"
  build "${targets[@]}" >"$log" 2>&1 || { echo "does not compile: $log"; return; }
  run_tests "$(field test "$patch")" >"$log" 2>&1 || true
  all=$(outcomes <"$log")
  green=$(awk '!/\*\*\*(Failed|Timeout|Exception)/ { print $1 }' <<<"$all" | xargs)
  if [ -z "$all" ]; then
    echo "no test ran: $log"
  elif [ -n "$green" ]; then
    echo "still green: $green"
  else
    echo "found"
  fi
}

patch_tree() { patch -d "$tree" -p1 --fuzz=0 --batch --silent --no-backup-if-mismatch --reject-file=- "$@"; }

find_patches "$@"
take_place
copy_tree
quietly "configure" configure
check_green

failed=()
for patch in "${patches[@]}"; do
  name=$(basename -s .patch "$patch") began=$SECONDS
  printf '%s: %s ... ' "$name" "$(field what "$patch")"
  if patch_tree --forward --dry-run <"$patch" >"$logs/$name.log" 2>&1; then
    patch_tree --forward <"$patch"
    outcome=$(outcome_of "$patch" "$logs/$name.log")
    patch_tree --reverse <"$patch"
  else
    outcome="does not apply: $logs/$name.log"
  fi
  printf '%s (%s s)\n' "$outcome" "$((SECONDS - began))"
  [ "$outcome" = found ] || failed+=("$name: $outcome")
done

printf '\n%s of %s mutations were found\n' "$((${#patches[@]} - ${#failed[@]}))" "${#patches[@]}"
[ ${#failed[@]} = 0 ] || die "these were not found" "${failed[@]}"
