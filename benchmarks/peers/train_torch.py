# SPDX-License-Identifier: Apache-2.0
"""PyTorch DDP over gloo, as fast as a competent user would have it: one thread a rank, gradients as views of the
buckets, a static graph, no broadcast of buffers, fused optimizers, gradients set to none. With --single plain PyTorch
in one process. One JSON line at the end.

  torchrun --nproc-per-node 2 train_torch.py --workload mlp --steps 2000
"""
import os

import torch
import torch.distributed as dist
import torch.nn.functional as F
import workloads

parser = workloads.arguments(__doc__)
parser.add_argument("--single", action="store_true")
parser.add_argument("--data", choices=("ready", "loader", "tensor"), default="ready",
                    help="ready-made batches, or Fashion-MNIST: Dataset, DataLoader and DistributedSampler, or all "
                         "images as one normalised tensor")
parser.add_argument("--fashion-mnist", help="folder of the gzipped IDX files")
a = parser.parse_args()

torch.set_num_threads(1)
rank, world = 0, 1
if not a.single:
    dist.init_process_group("gloo")
    rank, world = dist.get_rank(), dist.get_world_size()
net = workloads.model(a.workload)
optimizer = workloads.optimizer(a.workload, net.parameters(), a.optimizer)
if not a.single:
    net = torch.nn.parallel.DistributedDataParallel(net, gradient_as_bucket_view=True, static_graph=True,
                                                    broadcast_buffers=False)


def loader_batches():
    data = workloads.FashionMnist(a.fashion_mnist)
    sampler = torch.utils.data.DistributedSampler(data, world, rank, drop_last=True)
    loader = torch.utils.data.DataLoader(data, workloads.BATCH[a.workload], sampler=sampler, drop_last=True)
    epoch = 0
    while True:
        sampler.set_epoch(epoch)
        yield from loader
        epoch += 1


def tensor_batches():
    data = workloads.FashionMnist(a.fashion_mnist)
    x, y = data.normalised(data.images), data.labels
    generator = torch.Generator().manual_seed(0)   # the same order on all ranks, each its share
    size = workloads.BATCH[a.workload]
    while True:
        order = torch.randperm(len(y), generator=generator)[rank::world]
        for begin in range(0, len(order) - size + 1, size):
            chosen = order[begin:begin + size]
            yield x[chosen], y[chosen]


batches = {"ready": lambda: workloads.ready_batches(a.workload, rank), "loader": loader_batches,
           "tensor": tensor_batches}[a.data]()


def step():
    x, y = next(batches)
    optimizer.zero_grad(set_to_none=True)
    F.cross_entropy(net(x), y).backward()
    optimizer.step()


result = workloads.measure(a.workload, world, a.steps, step, (lambda: None) if a.single else dist.barrier)
if rank == 0:
    workloads.emit(result)
if not a.single:
    dist.barrier()
    os._exit(0)   # tearing a gloo group down sometimes aborts in torch 2.11
