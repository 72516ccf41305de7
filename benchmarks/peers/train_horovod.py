# SPDX-License-Identifier: Apache-2.0
"""Horovod over MPI, tuned: a cycle of 0.1 ms (the default of 1 ms costs a small model most of its speed), fused
optimizers, one thread a rank. Its own thread takes the processor from the training unless MPI yields when idle. One
JSON line at the end.

  mpirun -n 2 --bind-to none --mca mpi_yield_when_idle 1 python train_horovod.py --workload mlp --steps 2000
"""
import os

os.environ.setdefault("HOROVOD_CYCLE_TIME", "0.1")
import horovod.torch as hvd
import torch
import torch.nn.functional as F
import workloads

a = workloads.arguments(__doc__).parse_args()
torch.set_num_threads(1)
hvd.init()
net = workloads.model(a.workload)
hvd.broadcast_parameters(net.state_dict(), root_rank=0)
optimizer = hvd.DistributedOptimizer(workloads.optimizer(a.workload, net.parameters(), a.optimizer),
                                     named_parameters=net.named_parameters())
batches = workloads.ready_batches(a.workload, hvd.rank())


def step():
    x, y = next(batches)
    optimizer.zero_grad()
    F.cross_entropy(net(x), y).backward()
    optimizer.step()


result = workloads.measure(a.workload, hvd.size(), a.steps, step,
                           lambda: hvd.allreduce_(torch.zeros(1), name="barrier"))
if hvd.rank() == 0:
    workloads.emit(result)
hvd.shutdown()
