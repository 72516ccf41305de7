# SPDX-License-Identifier: Apache-2.0
"""What PyTorch does where we start warm and save. One case a run:

  checkpoints.py --file F --case plain-read | memcpy | write-fsync        (no torch: what the machine can do)
  checkpoints.py --file F --case torch-save                              (one process: seconds to the call's return)
  torchrun ... checkpoints.py --file F --case all-load | rank0-broadcast  (weights from F, as torch.save wrote them)
  torchrun ... checkpoints.py --file F --case dcp-async                   (seconds until the call returns, and until done)

The network is the MLP that ours has, 784-H-...-10, with AdamW where moments count. Prints one JSON object."""
import argparse
import json
import os
import time

import numpy

ap = argparse.ArgumentParser()
ap.add_argument("--file", required=True)
ap.add_argument("--case", required=True)
ap.add_argument("--hidden", type=lambda text: [int(width) for width in text.split(",")], required=True)
a = ap.parse_args()


def sizes():
    widths = [784, *a.hidden, 10]
    return sum(i * o + o for i, o in zip(widths, widths[1:]))


def best(call, rounds=3):
    """The least of a few: what the machine can do, whatever else it did meanwhile."""
    seconds = []
    for _ in range(rounds):
        start = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - start)
    return min(seconds)


def plain_read():
    into = numpy.ones(os.path.getsize(a.file), numpy.uint8)

    def read():
        with open(a.file, "rb", buffering=0) as file:
            view = memoryview(into)
            while view:
                view = view[file.readinto(view[:4 << 20]):]
    return {"s": best(read)}


def memcpy():
    source, target = numpy.ones(3 * sizes(), numpy.float32), numpy.zeros(3 * sizes(), numpy.float32)
    return {"s": best(lambda: numpy.copyto(target, source))}


def write_fsync():
    data = memoryview(numpy.random.default_rng(0).integers(0, 256, 12 * sizes(), numpy.uint8))

    def write():
        with open(a.file + ".raw", "wb", buffering=0) as file:
            view = data
            while view:
                view = view[file.write(view[:4 << 20]):]
            os.fsync(file.fileno())
    seconds = best(write, 1)
    os.remove(a.file + ".raw")
    return {"s": seconds}


def network():
    import torch
    torch.set_num_threads(1)
    torch.manual_seed(0)
    widths = [784, *a.hidden]
    layers = []
    for i, o in zip(widths, widths[1:]):
        layers += [torch.nn.Linear(i, o), torch.nn.ReLU()]
    return torch.nn.Sequential(*layers, torch.nn.Linear(widths[-1], 10))


def with_moments():
    import torch
    net = network()
    optimizer = torch.optim.AdamW(net.parameters(), fused=True)
    for parameter in net.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return net, optimizer


def torch_save():
    import torch
    net, optimizer = with_moments()
    start = time.perf_counter()
    torch.save({"model": net.state_dict(), "optimizer": optimizer.state_dict()}, a.file + ".pt")
    seconds = time.perf_counter() - start
    os.remove(a.file + ".pt")
    return {"s": seconds}


def distributed():
    import torch
    import torch.distributed as dist
    dist.init_process_group("gloo")
    ddp = torch.nn.parallel.DistributedDataParallel
    ddp(torch.nn.Linear(2, 2))   # imports and connections are made before the clock runs
    return torch, dist, ddp


def slowest(dist, torch, seconds):
    worst = torch.tensor(seconds, dtype=torch.float64)
    dist.all_reduce(worst, dist.ReduceOp.MAX)
    return worst.tolist()


def all_load():
    torch, dist, ddp = distributed()
    net = network()
    dist.barrier()
    start = time.perf_counter()
    net.load_state_dict(torch.load(a.file, weights_only=True))
    ddp(net, gradient_as_bucket_view=True)
    dist.barrier()
    return {"s": slowest(dist, torch, [time.perf_counter() - start])[0]}


def rank0_broadcast():
    torch, dist, ddp = distributed()
    net = network()
    dist.barrier()
    start = time.perf_counter()
    if dist.get_rank() == 0:
        net.load_state_dict(torch.load(a.file, weights_only=True, mmap=True))
    for tensor in net.state_dict().values():
        dist.broadcast(tensor, 0)
    ddp(net, gradient_as_bucket_view=True, init_sync=False)
    dist.barrier()
    return {"s": slowest(dist, torch, [time.perf_counter() - start])[0]}


def dcp_async():
    torch, dist, ddp = distributed()
    import torch.distributed.checkpoint as dcp
    from torch.distributed.checkpoint.state_dict import get_state_dict
    net, optimizer = with_moments()
    model, moments = get_state_dict(ddp(net, gradient_as_bucket_view=True), optimizer)
    state = {"model": model, "optimizer": moments}
    group = dist.new_group(backend="gloo")
    stalls = []
    for turn in range(3):   # the first one makes its buffers; the least counts
        dist.barrier()
        start = time.perf_counter()
        done = dcp.async_save(state, checkpoint_id=f"{a.file}.dcp-{turn}", process_group=group)
        stalls.append(slowest(dist, torch, [time.perf_counter() - start])[0])
        done.result()
        seconds = time.perf_counter() - start
    return {"s": min(stalls), "whole_s": seconds}


def prepare():
    import torch
    torch.save(network().state_dict(), a.file)
    return {}


answer = {"plain-read": plain_read, "memcpy": memcpy, "write-fsync": write_fsync, "torch-save": torch_save,
          "all-load": all_load, "rank0-broadcast": rank0_broadcast, "dcp-async": dcp_async, "prepare": prepare}[a.case]()
if int(os.environ.get("RANK", 0)) == 0:
    print(json.dumps(answer), flush=True)
