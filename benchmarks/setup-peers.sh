#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Builds what the comparison runs against: Horovod 0.28.1 over MPI, in an environment of its own (.deps/peers) that
# takes torch from ours, and MPI_Allreduce as a program. A second run finds everything and does nothing.
#
#   JOBS=1      compilers at a time, at the lowest priority
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/../scripts/common.sh"

version=0.28.1
python=$root/.deps/python/bin/python
peers=$root/.deps/peers
jobs=${JOBS:-1}

# torch is not installed twice: a .pth file leads to where it lies.
make_environment() {
  rm -rf "$peers"
  "$(readlink -f "$python")" -m venv "$peers"
  "$peers/bin/python" -m pip install --disable-pip-version-check \
    'setuptools<70' wheel 'cmake<4' packaging cloudpickle psutil pyyaml
  lead_to_torch
}

lead_to_torch() {
  "$python" -c 'import site; print(site.getsitepackages()[0])' \
    >"$("$peers/bin/python" -c 'import site; print(site.getsitepackages()[0])')/ours.pth"
}

# From the source archive, with what it needs to compile against a torch of today: C++17, and no look at CUDA even
# where there is a toolkit, because the comparison is on processors.
build_horovod() {
  rm -rf "$peers/source"
  mkdir -p "$peers/source"
  cd "$peers/source"
  "$peers/bin/python" -m pip download --disable-pip-version-check --no-deps --no-build-isolation \
    --no-binary horovod "horovod==$version"
  tar xf "horovod-$version.tar.gz"
  cd "horovod-$version"
  sed -i 's/CMAKE_CXX_STANDARD 14/CMAKE_CXX_STANDARD 17/' CMakeLists.txt horovod/torch/CMakeLists.txt
  sed -i 's/check_language(CUDA)/set(CMAKE_CUDA_COMPILER "")/' CMakeLists.txt
  sed -i 's/string(TOUPPER .* Pytorch_CUDA)/set(Pytorch_CUDA FALSE)/' cmake/Modules/FindPytorch.cmake
  export PATH=$peers/bin:$PATH MAKEFLAGS=-j$jobs MAX_JOBS=$jobs
  export HOROVOD_WITH_MPI=1 HOROVOD_WITH_PYTORCH=1
  export HOROVOD_WITHOUT_GLOO=1 HOROVOD_WITHOUT_TENSORFLOW=1 HOROVOD_WITHOUT_MXNET=1
  nice -n 19 "$peers/bin/python" -m pip install --disable-pip-version-check --no-build-isolation --no-deps .
  cd "$root"
  "$peers/bin/python" -c 'import horovod.torch'
  rm -rf "$peers/source"
  touch "$peers/horovod-$version"
}

build_allreduce() {
  mpicxx -O3 -march=native -o "$peers/allreduce_mpi" benchmarks/peers/allreduce_mpi.cpp
}

# Each phase is a shell of its own: in a function that is part of an `if`, bash does not stop at errors.
if [ $# -gt 0 ]; then
  "$@"
  exit
fi
[ -x "$python" ] || die "there is no $python" "run scripts/setup.sh first"
if ! [ -e "$peers/horovod-$version" ]; then
  quietly "peers: an environment for Horovod" benchmarks/setup-peers.sh make_environment
  quietly "horovod (some minutes to compile)" benchmarks/setup-peers.sh build_horovod
fi
lead_to_torch  # which may have moved with its folder
if [ benchmarks/peers/allreduce_mpi.cpp -nt "$peers/allreduce_mpi" ]; then
  quietly "allreduce: MPI's" benchmarks/setup-peers.sh build_allreduce
fi
