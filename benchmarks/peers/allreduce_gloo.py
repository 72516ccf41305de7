# SPDX-License-Identifier: Apache-2.0
"""All-reduce of float32 over gloo, in place. One JSON line a size: the median over repetitions of the slowest rank's
time.

  torchrun --nproc-per-node 2 allreduce_gloo.py SECONDS BYTES...
"""
import os
import sys
import time

import torch
import torch.distributed as dist
import workloads

FEWEST, MOST = 9, 5000   # repetitions

torch.set_num_threads(1)
dist.init_process_group("gloo")


def seconds_of(call):
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def median_ms(call):
    for _ in range(3):
        call()
    dist.barrier()
    once = torch.tensor([seconds_of(call)], dtype=torch.float64)
    dist.all_reduce(once, dist.ReduceOp.MAX)
    times = []
    for _ in range(int(min(max(float(sys.argv[1]) / once.item(), FEWEST), MOST))):
        dist.barrier()
        times.append(seconds_of(call))
    times = torch.tensor(times, dtype=torch.float64)
    dist.all_reduce(times, dist.ReduceOp.MAX)
    return 1e3 * times.median().item()


for size in map(int, sys.argv[2:]):
    x = torch.zeros(size // 4)
    ms = median_ms(lambda: dist.all_reduce(x))
    if dist.get_rank() == 0:
        workloads.emit({"op": "allreduce", "bytes": size, "ms": ms})
dist.barrier()
os._exit(0)   # tearing a gloo group down sometimes aborts in torch 2.11
