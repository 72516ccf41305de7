# SPDX-License-Identifier: Apache-2.0
"""PyTorch DDP over gloo on the small MLP, tuned as a competent user would: one thread a rank, fused SGD, gradients as
views of the buckets, a static graph, gradients set to none, ready-made batches in memory. One JSON line at the end.

  torchrun --nproc-per-node 2 ddp_mlp.py [--steps 2000]
"""
import argparse
import json
import os
import time

import torch
import torch.distributed as dist
from torch import nn

parser = argparse.ArgumentParser()
parser.add_argument("--steps", type=int, default=2000)
parser.add_argument("--warmup", type=int, default=500)
parser.add_argument("--batch", type=int, default=64, help="per rank")
a = parser.parse_args()

launched = float(os.environ["LAUNCHED"])   # wall clock of the command's own start
torch.set_num_threads(1)
dist.init_process_group("gloo")
rank, world = dist.get_rank(), dist.get_world_size()

net = nn.Sequential(nn.Linear(784, 100), nn.ReLU(), nn.Linear(100, 100), nn.ReLU(), nn.Linear(100, 10))
ddp = nn.parallel.DistributedDataParallel(net, gradient_as_bucket_view=True, static_graph=True, broadcast_buffers=False)
optimizer = torch.optim.SGD(net.parameters(), lr=0.01, momentum=0.9, fused=True)
generator = torch.Generator().manual_seed(rank)
pool = [(torch.randn(a.batch, 784, generator=generator), torch.randint(10, (a.batch,), generator=generator))
        for _ in range(4)]


def step(i):
    x, y = pool[i % 4]
    optimizer.zero_grad(set_to_none=True)
    loss = nn.functional.cross_entropy(ddp(x), y)
    loss.backward()
    optimizer.step()


step(0)
first_step = time.time() - launched
for i in range(a.warmup):
    step(i)
dist.barrier()
start = time.perf_counter()
for i in range(a.steps):
    step(i)
dist.barrier()
seconds = time.perf_counter() - start
if rank == 0:
    print(json.dumps({"samples_per_s": world * a.batch * a.steps / seconds, "first_step_s": first_step,
                      "torch": torch.__version__}), flush=True)
dist.barrier()
os._exit(0)   # tearing a gloo group down sometimes aborts in torch 2.11
