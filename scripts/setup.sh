#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Installs what is missing to build, test and run: packages of the distribution, and PyTorch for its LibTorch and NCCL
# in a private environment under .deps/. A second run finds everything and does nothing. It asks before it uses sudo.
#
#   TORCH_ROOT=PATH       use the LibTorch there; then there is no private environment, and no tests against PyTorch
#   SKIP_PACKAGES=1       the distribution's packages are there already, under whatever names
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"

oldest_cmake=3.25
environment=.deps/python
needed_gib=6

apt_packages=(
  build-essential cmake ninja-build ccache pkg-config python3-venv
  openmpi-bin libopenmpi-dev openssh-client iproute2   # a bare mpirun looks for ssh
  libtomlplusplus-dev libspdlog-dev libfmt-dev libcli11-dev nlohmann-json3-dev libxxhash-dev zlib1g-dev
  libgtest-dev libgmock-dev libbenchmark-dev
  dataset-fashion-mnist
)

packages_elsewhere() {
  if command -v dnf >/dev/null; then
    echo "sudo dnf install gcc-c++ make cmake ninja-build ccache pkgconf-pkg-config python3 openmpi openmpi-devel" \
         "openssh-clients iproute tomlplusplus-devel spdlog-devel fmt-devel cli11-devel json-devel xxhash-devel" \
         "zlib-devel gtest-devel gmock-devel google-benchmark-devel"
  elif command -v pacman >/dev/null; then
    echo "sudo pacman -S base-devel cmake ninja ccache pkgconf python openmpi openssh iproute2 tomlplusplus spdlog fmt" \
         "cli11 nlohmann-json xxhash zlib gtest benchmark"
  elif command -v zypper >/dev/null; then
    echo "sudo zypper install gcc-c++ make cmake ninja ccache pkgconf-pkg-config python3 openmpi4 openmpi4-devel" \
         "openssh-clients iproute2 tomlplusplus-devel spdlog-devel fmt-devel cli11-devel nlohmann_json-devel" \
         "xxhash-devel zlib-devel gtest gmock benchmark-devel"
  else
    echo "the packages that Debian calls ${apt_packages[*]}"
  fi
}

missing_packages() {
  local installed
  installed=$(dpkg-query -W -f '${db:Status-Status} ${Package}\n' "${apt_packages[@]}" 2>/dev/null || true)
  for package in "${apt_packages[@]}"; do
    grep -qx "installed $package" <<<"$installed" || echo "$package"
  done
}

apt_install() {
  local as_root=()
  [ "$(id -u)" = 0 ] || as_root=(sudo)
  "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get update
  "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -o DPkg::Lock::Timeout=120 install -y --no-install-recommends "$@"
}

ask_for_sudo() {
  local command="sudo apt-get install $*" answer
  command -v sudo >/dev/null || die "these packages are missing, and there is no sudo: as root, run" "apt-get install $*"
  [ -t 0 ] || die "these packages are missing, and nobody is there to ask about sudo: run" "$command"
  printf 'Missing packages: %s\nInstall them with sudo apt-get? [y/N] ' "$*"
  read -r answer
  case $answer in
    y | Y | yes) sudo -v ;;
    *) die "stopped; to go on yourself, run" "$command" ;;
  esac
}

install_packages() {
  if ! command -v apt-get >/dev/null; then
    die "this system has no apt; what is needed here is (untried, names may differ)" "$(packages_elsewhere)" \
      "and the data set Fashion-MNIST, as four .gz files, in /usr/share/datasets/fashion-mnist" \
      "then run this again with SKIP_PACKAGES=1"
  fi
  local missing
  mapfile -t missing < <(missing_packages)
  if [ ${#missing[@]} = 0 ]; then return; fi
  [ "$(id -u)" = 0 ] || ask_for_sudo "${missing[@]}"
  quietly "packages" apt_install "${missing[@]}"
}

check_cmake() {
  local found
  found=$(cmake --version | sed -n '1s/.* //p')
  if [ "$(printf '%s\n' "$oldest_cmake" "$found" | sort -V | head -n 1)" != "$oldest_cmake" ]; then
    die "CMake $oldest_cmake or newer is needed, this is $found" "newer ones: https://cmake.org/download"
  fi
}

system_python() {
  if [ -x /usr/bin/python3 ]; then echo /usr/bin/python3; else command -v python3 || die "there is no python3"; fi
}

check_disk() {
  local free
  free=$(df -Pk .deps | awk 'NR == 2 { print int($4 / 1048576) }')
  [ "$free" -ge "$needed_gib" ] || die "$root/.deps needs $needed_gib GiB of disk, $free are free"
}

# What lies in $environment is as requirements.txt says once the stamp holds its digest. While pip is at work there is
# a mark instead: an environment that still has it was interrupted, and is made again.
install_python() {
  local stamp=$environment.stamp mark=$environment.unfinished digest
  digest=$(sha256sum scripts/requirements.txt | cut -d ' ' -f 1)
  if [ -x $environment/bin/python ] && [ "$(cat $stamp 2>/dev/null)" = "$digest" ]; then return; fi

  mkdir -p .deps
  if [ -e $mark ] || ! $environment/bin/python -m pip --version >/dev/null 2>&1; then
    rm -rf $environment
    check_disk
  fi
  rm -f $stamp
  touch $mark
  [ -d $environment ] || quietly "environment" "$(system_python)" -m venv $environment
  quietly "pytorch (2.5 GB to download)" fill_python
  echo "$digest" >$stamp
  rm -rf $mark .deps/tmp
}

# /tmp may be small, and nothing of this belongs into the user's cache.
fill_python() {
  mkdir -p .deps/tmp
  TMPDIR=$root/.deps/tmp $environment/bin/python -m pip install --no-cache-dir --disable-pip-version-check \
    -r scripts/requirements.txt
}

[ -n "${SKIP_PACKAGES:-}" ] || install_packages
check_cmake
if [ -n "${TORCH_ROOT:-}" ]; then
  echo "LibTorch from $TORCH_ROOT; tests that compare with PyTorch are left out"
else
  install_python
fi
