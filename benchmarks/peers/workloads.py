# SPDX-License-Identifier: Apache-2.0
"""What the Python peers train, and what their scripts share. Batches are per worker.

  mlp        784-100-100-10, batch 64, SGD with momentum
  mlp-large  784-4096-4096-10, batch 64, SGD with momentum
  resnet18   with the stem for 32 x 32 images, batch 16, SGD with momentum
  minilm     encoder of MiniLM-L6's size, 64 tokens, batch 8, AdamW
"""
import argparse
import gzip
import json
import os
import pathlib
import time

import torch
import torch.nn.functional as F
from torch import nn

BATCH = {"mlp": 64, "mlp-large": 64, "resnet18": 16, "minilm": 8}
TOKENS, VOCABULARY = 64, 30522


class Block(nn.Module):
    """Of a ResNet: two convolutions and a way around them."""

    def __init__(self, before, after, stride):
        super().__init__()
        self.conv1 = nn.Conv2d(before, after, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(after)
        self.conv2 = nn.Conv2d(after, after, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(after)
        self.around = nn.Identity()
        if stride != 1 or before != after:
            self.around = nn.Sequential(nn.Conv2d(before, after, 1, stride, bias=False), nn.BatchNorm2d(after))

    def forward(self, x):
        y = F.relu(self.bn1(self.conv1(x)), inplace=True)
        return F.relu(self.bn2(self.conv2(y)) + self.around(x), inplace=True)


class ResNet18(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 64, 3, 1, 1, bias=False), nn.BatchNorm2d(64), nn.ReLU(inplace=True))
        blocks, before = [], 64
        for after, stride in ((64, 1), (128, 2), (256, 2), (512, 2)):
            blocks += [Block(before, after, stride), Block(after, after, 1)]
            before = after
        self.blocks = nn.Sequential(*blocks)
        self.head = nn.Linear(512, 10)

    def forward(self, x):
        return self.head(self.blocks(self.stem(x)).mean((2, 3)))


class Layer(nn.Module):
    """Of the encoder, with one matrix for queries, keys and values, and PyTorch's fused attention."""

    def __init__(self, width, heads, inner):
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.norm1 = nn.LayerNorm(width, eps=1e-12)
        self.up = nn.Linear(width, inner)
        self.down = nn.Linear(inner, width)
        self.norm2 = nn.LayerNorm(width, eps=1e-12)

    def forward(self, x):
        samples, tokens, width = x.shape
        parts = self.qkv(x).view(samples, tokens, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        attended = F.scaled_dot_product_attention(*parts.unbind(0))
        x = self.norm1(x + self.out(attended.transpose(1, 2).reshape(samples, tokens, width)))
        return self.norm2(x + self.down(F.gelu(self.up(x))))


class MiniLm(nn.Module):
    def __init__(self, width=384, classes=2):
        super().__init__()
        self.word = nn.Embedding(VOCABULARY, width)
        self.position = nn.Embedding(512, width)
        self.kind = nn.Embedding(2, width)
        self.norm = nn.LayerNorm(width, eps=1e-12)
        self.layers = nn.Sequential(*(Layer(width, 12, 4 * width) for _ in range(6)))
        self.pool = nn.Linear(width, width)
        self.head = nn.Linear(width, classes)
        for module in self.modules():
            if isinstance(module, (nn.Linear, nn.Embedding)):
                nn.init.normal_(module.weight, std=0.02)

    def forward(self, x):
        x = self.norm(self.word(x) + self.position.weight[:x.shape[1]] + self.kind.weight[0])
        return self.head(torch.tanh(self.pool(self.layers(x)[:, 0])))


def mlp(width):
    return nn.Sequential(nn.Flatten(), nn.Linear(784, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(),
                         nn.Linear(width, 10))


def model(workload):
    torch.manual_seed(0)
    return {"mlp": lambda: mlp(100), "mlp-large": lambda: mlp(4096), "resnet18": ResNet18, "minilm": MiniLm}[workload]()


def optimizer(workload, parameters, rule=None):
    """Fused: the fastest of PyTorch's variants on processors."""
    if (rule or ("adamw" if workload == "minilm" else "sgd")) == "adamw":
        return torch.optim.AdamW(parameters, lr=5e-5, weight_decay=0.01, fused=True)
    return torch.optim.SGD(parameters, lr=0.01, momentum=0.9, fused=True)


def samples(workload, count, seed=0):
    """x and y of as many synthetic samples."""
    generator = torch.Generator().manual_seed(seed)
    if workload == "minilm":
        return (torch.randint(VOCABULARY, (count, TOKENS), generator=generator),
                torch.randint(2, (count,), generator=generator))
    shape = (3, 32, 32) if workload == "resnet18" else (784,)
    return torch.randn(count, *shape, generator=generator), torch.randint(10, (count,), generator=generator)


def ready_batches(workload, rank):
    """Four batches in memory, again and again: reading costs nothing."""
    pool = [samples(workload, BATCH[workload], seed=100 * rank + i) for i in range(4)]
    while True:
        yield from pool


class FashionMnist(torch.utils.data.Dataset):
    """What people usually write: one image a call, scaled and normalised there."""

    def __init__(self, folder):
        self.images = self._read(folder, "train-images-idx3-ubyte.gz", 16).view(-1, 28, 28)
        self.labels = self._read(folder, "train-labels-idx1-ubyte.gz", 8).long()

    @staticmethod
    def _read(folder, name, header):
        with gzip.open(pathlib.Path(folder) / name) as file:
            return torch.frombuffer(bytearray(file.read()), dtype=torch.uint8, offset=header)

    @staticmethod
    def normalised(images):
        return images.unsqueeze(-3).float().div_(255).sub_(0.2860).div_(0.3530)

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, i):
        return self.normalised(self.images[i]), self.labels[i]


def arguments(description):
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workload", choices=BATCH, required=True)
    parser.add_argument("--steps", type=int, required=True, help="that are timed; a fifth as many go before")
    parser.add_argument("--optimizer", choices=("sgd", "adamw"))
    return parser


def measure(workload, world, steps, step, barrier):
    """Times `steps` calls of step() on all ranks together. LAUNCHED is the wall clock of the command's own start."""
    def steps_together(count):
        for _ in range(count):
            step()
        barrier()
        return time.perf_counter()

    steps_together(1)
    first = time.time() - float(os.environ["LAUNCHED"])
    start = steps_together(max(steps // 5, 1))
    seconds = steps_together(steps) - start
    return {"workers": world, "ms_per_step": 1e3 * seconds / steps,
            "samples_per_s": world * BATCH[workload] * steps / seconds, "first_step_s": first}


def emit(result):
    print(json.dumps(result), flush=True)
