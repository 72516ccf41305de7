# SPDX-License-Identifier: Apache-2.0
"""The fused optimizer of PyTorch over the parameters of an MLP, or over one of --flat elements, in one process: the median of
--steps updates. Prints one JSON object."""
import argparse
import json
import statistics
import time

import torch

ap = argparse.ArgumentParser()
ap.add_argument("--hidden", type=lambda text: [int(width) for width in text.split(",")], default=[])
ap.add_argument("--flat", type=int)
ap.add_argument("--name", choices=["sgd", "adamw"], required=True)
ap.add_argument("--steps", type=int, default=100)
a = ap.parse_args()

torch.set_num_threads(1)
widths = [784, *a.hidden, 10]
model = (torch.nn.Linear(a.flat, 1, bias=False) if a.flat
         else torch.nn.Sequential(*(torch.nn.Linear(i, o) for i, o in zip(widths, widths[1:]))))
if a.name == "sgd":
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-6, momentum=0.9, weight_decay=1e-2, fused=True)
else:
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-6, weight_decay=1e-2, fused=True)
for parameter in model.parameters():
    parameter.grad = torch.full_like(parameter, 1e-3)
times = []
for step in range(a.steps + a.steps // 5):
    start = time.perf_counter()
    optimizer.step()
    times.append(time.perf_counter() - start)
print(json.dumps({"parameters": sum(p.numel() for p in model.parameters()),
                  "ms": 1e3 * statistics.median(times[a.steps // 5:])}))
