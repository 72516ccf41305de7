# SPDX-License-Identifier: Apache-2.0
"""Any number of workers trains as plain PyTorch does: same data, same order, same initial weights, and nothing else of
ours. The oracle is the loop that everybody writes, with the whole global batch in one pass."""

import math
import unittest

import torch
from safetensors.torch import save_file

import harness

torch.set_num_threads(1)


class Mlp(torch.nn.Module):
    def __init__(self, features, hidden, classes):
        super().__init__()
        widths = [features, *hidden, classes]
        self.layers = torch.nn.ModuleList(torch.nn.Linear(a, b) for a, b in zip(widths, widths[1:]))

    def forward(self, x):
        for layer in self.layers[:-1]:
            x = torch.relu(layer(x))
        return self.layers[-1](x)


class Logistic(torch.nn.Module):
    def __init__(self, features, classes):
        super().__init__()
        self.linear = torch.nn.Linear(features, classes)

    def forward(self, x):
        return self.linear(x)


def convolution(inputs, outputs, kernel, stride):
    return torch.nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, bias=False)


class Block(torch.nn.Module):
    def __init__(self, inputs, outputs, stride):
        super().__init__()
        self.conv1 = convolution(inputs, outputs, 3, stride)
        self.bn1 = torch.nn.BatchNorm2d(outputs)
        self.conv2 = convolution(outputs, outputs, 3, 1)
        self.bn2 = torch.nn.BatchNorm2d(outputs)
        self.downsample = None
        if stride != 1 or inputs != outputs:
            self.downsample = torch.nn.Sequential(convolution(inputs, outputs, 1, stride),
                                                  torch.nn.BatchNorm2d(outputs))

    def forward(self, x):
        y = self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x)))))
        return torch.relu(y + (self.downsample(x) if self.downsample else x))


class ResNet18(torch.nn.Module):
    """As torchvision names it, with a first layer for small images."""

    def __init__(self, channels, classes):
        super().__init__()
        self.conv1 = convolution(channels, 64, 3, 1)
        self.bn1 = torch.nn.BatchNorm2d(64)
        widths = [64, 64, 128, 256, 512]
        for i, (inputs, outputs) in enumerate(zip(widths, widths[1:])):
            blocks = Block(inputs, outputs, 1 if i == 0 else 2), Block(outputs, outputs, 1)
            setattr(self, f"layer{i + 1}", torch.nn.Sequential(*blocks))
        self.fc = torch.nn.Linear(512, classes)

    def forward(self, x):
        x = torch.relu(self.bn1(self.conv1(x)))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.fc(x.mean((2, 3)))


def batches(samples, batch, count):
    """The positions of each of `count` batches: in file order, epoch after epoch, the last one of each smaller."""
    starts = range(0, samples, batch)
    for step in range(count):
        start = starts[step % len(starts)]
        yield slice(start, min(start + batch, samples))


def warmup_and_cosine(peak, start, warmup, end):
    """The rate after so many samples, with lengths in samples."""
    def rate(seen):
        if seen < warmup:
            return peak * (start + (1 - start) * seen / warmup)
        return peak * 0.5 * (1 + math.cos(math.pi * (seen - warmup) / (end - warmup)))
    return rate


def two_groups(model, decay):
    """Weights decay, biases and norms do not."""
    return [{"params": [p for p in model.parameters() if p.dim() > 1], "weight_decay": decay},
            {"params": [p for p in model.parameters() if p.dim() <= 1], "weight_decay": 0.0}]


def train(model, optimizer, data, batch, count, rate, max_norm=math.inf, before=lambda step: None,
          prepare=lambda: None, after=lambda samples: None):
    """Returns loss, rate and gradient norm of each step. Around it: `before` it, `prepare` right before the update, and
    `after` it, with the samples that it saw."""
    history, seen = [], 0
    for positions in batches(len(data["y"]), batch, count):
        x, y = data["x"][positions], data["y"][positions]
        for group in optimizer.param_groups:
            group["lr"] = rate(seen) * group.get("factor", 1)
        before(len(history))
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(model(x), y)
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), max_norm)
        prepare()
        optimizer.step()
        history.append({"loss": loss.item(), "lr": rate(seen), "grad_norm": norm.item(), "samples": seen})
        seen += len(y)
        after(len(y))
    return history


class Replay(harness.Case):
    """A test that runs a job and does the same in PyTorch."""

    def prepare(self, model, data):
        """Writes what both sides get: the data and the initial weights."""
        self.data = {name: torch.from_numpy(tensor) for name, tensor in data.items()}
        self.write_data(data)
        initial = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        save_file(initial, self.folder / "initial.safetensors")

    def check(self, job, history, model, worlds):
        """Runs `job` on each world and compares every step and the final weights with the oracle's."""
        for world in worlds:
            with self.subTest(workers=world):
                directory = self.folder / f"workers-{world}"
                self.run_well(job, f"run.directory={directory}", workers=world)
                self.compare(harness.steps(directory), history)
                self.compare_weights(harness.weights(directory), model.state_dict())

    def compare(self, steps, history, rate=1e-9):
        self.assertEqual(sorted(steps), list(range(len(history))))
        for number, theirs in enumerate(history):
            ours = steps[number]
            self.assertEqual(ours["samples"], theirs["samples"], f"step {number}")
            for name, tolerance in {"loss": 1e-4, "grad_norm": 1e-3, "lr": rate}.items():
                error = abs(ours[name] - theirs[name])
                self.assertLessEqual(error, tolerance * abs(theirs[name]),
                                     f"step {number}: {name} is {ours[name]}, the oracle's {theirs[name]}")

    def compare_weights(self, ours, theirs):
        self.assertEqual(set(ours), set(theirs))
        for name, tensor in theirs.items():
            torch.testing.assert_close(torch.from_numpy(ours[name].copy()), tensor, rtol=1e-3, atol=1e-4, msg=name)


class Oracle(Replay):
    def test_sgd(self):
        # 482 samples in batches of 24: the last one of an epoch has 2, so of 3 or 4 workers some have none of it.
        torch.manual_seed(1)
        model = Mlp(12, [24, 16], 5)
        self.prepare(model, harness.clusters(482, classes=5, features=12, spread=3))
        job = self.write_job("""
            [model]
            hidden = [24, 16]
            [data]
            path = "data.safetensors"
            shuffle = false
            [batch]
            global = 24
            microbatch = 5
            [optimizer]
            name = "sgd"
            momentum = 0.9
            nesterov = true
            weight_decay = 1e-3
            [schedule]
            base_lr = 0.1
            base_batch = 48
            lr_scaling = "linear"
            warmup = "20ba"
            decay = "cosine"
            [warm_start]
            from = "initial.safetensors"
            [run]
            directory = "run"
            duration = "200ba"
            log_every = "1ba"
            """)
        rate = warmup_and_cosine(peak=0.1 * 24 / 48, start=0, warmup=20 * 24, end=9 * 482 + 11 * 24)
        optimizer = torch.optim.SGD(two_groups(model, 1e-3), lr=1, momentum=0.9, nesterov=True)
        history = train(model, optimizer, self.data, batch=24, count=200, rate=rate)
        self.check(job, history, model, worlds=[1, 2, 3, 4])

    def test_adamw(self):
        torch.manual_seed(2)
        model = Mlp(12, [20], 5)
        self.prepare(model, harness.clusters(300, classes=5, features=12, spread=3))
        job = self.write_job("""
            [model]
            hidden = [20]
            [data]
            path = "data.safetensors"
            shuffle = false
            [batch]
            global = 32
            [optimizer]
            name = "adamw"
            weight_decay = 0.1
            max_grad_norm = 1.0
            [schedule]
            base_lr = 0.01
            warmup = "0.1dur"
            warmup_start_factor = 0.25
            decay = "cosine"
            [warm_start]
            from = "initial.safetensors"
            [run]
            directory = "run"
            duration = "20ep"
            log_every = "1ba"
            """)
        rate = warmup_and_cosine(peak=0.01, start=0.25, warmup=600, end=6000)
        optimizer = torch.optim.AdamW(two_groups(model, 0.1), lr=1)
        history = train(model, optimizer, self.data, batch=32, count=200, rate=rate, max_norm=1.0)
        clipped = [step["grad_norm"] > 1.0 for step in history]
        self.assertTrue(any(clipped) and not all(clipped), "the test needs steps of both kinds")
        self.check(job, history, model, worlds=[1, 2, 3, 4])

    def test_adamw_with_all_its_settings(self):
        torch.manual_seed(3)
        model = Mlp(6, [10, 10, 10], 3)
        self.prepare(model, harness.clusters(160, classes=3, features=6, spread=3))
        job = self.write_job("""
            [model]
            hidden = [10, 10, 10]
            [data]
            path = "data.safetensors"
            shuffle = false
            [batch]
            global = 16
            microbatch = 4
            [optimizer]
            name = "adamw"
            betas = [0.8, 0.95]
            eps = 1e-3
            weight_decay = 0.3
            no_decay = []
            [schedule]
            base_lr = 0.02
            [warm_start]
            from = "initial.safetensors"
            [run]
            directory = "run"
            duration = "200ba"
            log_every = "1ba"
            """)
        optimizer = torch.optim.AdamW(model.parameters(), lr=1, betas=(0.8, 0.95), eps=1e-3, weight_decay=0.3)
        history = train(model, optimizer, self.data, batch=16, count=200, rate=lambda seen: 0.02)
        self.check(job, history, model, worlds=[2])

    def test_adam_scaled_to_the_batch(self):
        """adam-sqrt from a batch of 8 to one of 16: the rate, both betas and eps follow."""
        torch.manual_seed(6)
        model = Mlp(6, [10], 3)
        self.prepare(model, harness.clusters(160, classes=3, features=6, spread=3))
        job = self.write_job("""
            [model]
            hidden = [10]
            [data]
            path = "data.safetensors"
            shuffle = false
            [batch]
            global = 16
            [optimizer]
            name = "adamw"
            betas = [0.9, 0.98]
            eps = 1e-2
            [schedule]
            base_lr = 0.01
            base_batch = 8
            lr_scaling = "adam-sqrt"
            [warm_start]
            from = "initial.safetensors"
            [run]
            directory = "run"
            duration = "100ba"
            log_every = "1ba"
            """)
        rate = 0.01 * math.sqrt(2)
        optimizer = torch.optim.AdamW(two_groups(model, 0.01), lr=1, betas=(0.8, 0.96), eps=1e-2 / math.sqrt(2))
        history = train(model, optimizer, self.data, batch=16, count=100, rate=lambda seen: rate)
        self.check(job, history, model, worlds=[2])

    def test_groups(self):
        """Adam, with a group of three times the rate, another decay elsewhere, and a layer that is frozen."""
        torch.manual_seed(5)
        model = Mlp(6, [10, 10], 3)
        self.prepare(model, harness.clusters(160, classes=3, features=6, spread=3))
        job = self.write_job("""
            [model]
            hidden = [10, 10]
            [data]
            path = "data.safetensors"
            shuffle = false
            [batch]
            global = 16
            [optimizer]
            name = "adam"
            weight_decay = 0.1
            groups = [
              { match = ["layers.1.*"], freeze = true },
              { match = ["layers.2.*"], lr_factor = 3, weight_decay = 0.02 },
            ]
            [schedule]
            base_lr = 0.01
            [warm_start]
            from = "initial.safetensors"
            [run]
            directory = "run"
            duration = "100ba"
            log_every = "1ba"
            """)
        first, frozen, last = model.layers
        frozen.requires_grad_(False)
        optimizer = torch.optim.Adam([{"params": [first.weight], "weight_decay": 0.1}, {"params": [first.bias]},
                                      {"params": [last.weight], "weight_decay": 0.02, "factor": 3},
                                      {"params": [last.bias], "factor": 3}], lr=1)
        history = train(model, optimizer, self.data, batch=16, count=100, rate=lambda seen: 0.01)
        self.check(job, history, model, worlds=[1, 3])

    def test_groups_that_thaw(self):
        """Layer by layer, the last one first. What is frozen does not move and has no momentum yet. The last batch of
        an epoch has 2 samples, so some of 3 workers have none."""
        torch.manual_seed(7)
        model = Mlp(6, [10, 10], 3)
        initial = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        self.prepare(model, harness.clusters(162, classes=3, features=6, spread=3))
        job = self.write_job("""
            [model]
            hidden = [10, 10]
            [data]
            path = "data.safetensors"
            shuffle = false
            [batch]
            global = 16
            [optimizer]
            momentum = 0.9
            weight_decay = 0.01
            groups = [
              { match = ["layers.0.*"], unfreeze_at = "60ba", lr_factor = 0.5 },
              { match = ["layers.1.*"], unfreeze_at = "30ba" },
            ]
            [schedule]
            base_lr = 0.05
            [warm_start]
            from = "initial.safetensors"
            [checkpoint]
            every = "30ba"
            keep = 10
            [run]
            directory = "run"
            duration = "100ba"
            log_every = "1ba"
            """)
        begins = {0: 60, 1: 30, 2: 0}

        def thaw(step):
            for layer, begin in begins.items():
                model.layers[layer].requires_grad_(step >= begin)

        groups = [{**group, "params": [p], "factor": 0.5 if layer == 0 else 1}
                  for layer in begins for group in two_groups(model.layers[layer], 0.01) for p in group["params"]]
        optimizer = torch.optim.SGD(groups, lr=1, momentum=0.9)
        history = train(model, optimizer, self.data, batch=16, count=100, rate=lambda seen: 0.05, before=thaw)
        self.check(job, history, model, worlds=[1, 3])
        for checkpoint in sorted((self.folder / "workers-3" / "checkpoints").glob("step-*")):
            step = int(checkpoint.name.removeprefix("step-"))
            weights, momentum = harness.load_file(checkpoint / "model.safetensors"), harness.moments(checkpoint)
            for name, tensor in initial.items():
                frozen = step <= begins[int(name.split(".")[1])]
                with self.subTest(step=step, name=name):
                    self.assertEqual((weights[name] == tensor.numpy()).all(), frozen)
                    self.assertEqual(momentum[f"{name} momentum_buffer"].any(), not frozen)

    def test_cut_off_gradients(self):
        torch.manual_seed(8)
        model = Mlp(6, [10], 3)
        self.prepare(model, harness.clusters(160, classes=3, features=6, spread=3))
        job = self.write_job("""
            [model]
            hidden = [10]
            [data]
            path = "data.safetensors"
            shuffle = false
            [batch]
            global = 16
            microbatch = 3
            [optimizer]
            momentum = 0.9
            max_grad_value = 0.05
            [schedule]
            base_lr = 0.05
            [warm_start]
            from = "initial.safetensors"
            [run]
            directory = "run"
            duration = "60ba"
            log_every = "1ba"
            """)
        cut = []

        def clip():
            cut.extend((p.grad.abs() > 0.05).float().mean().item() for p in model.parameters())
            torch.nn.utils.clip_grad_value_(model.parameters(), 0.05)

        optimizer = torch.optim.SGD(model.parameters(), lr=1, momentum=0.9)
        history = train(model, optimizer, self.data, batch=16, count=60, rate=lambda seen: 0.05, prepare=clip)
        self.assertTrue(any(cut) and not all(cut), "the test needs elements of both kinds")
        self.check(job, history, model, worlds=[2])

    def test_pytorchs_own_schedules(self):
        torch.manual_seed(4)
        model = Logistic(10, 4)
        self.prepare(model, harness.clusters(320, classes=4, features=10, spread=3))
        job = self.write_job("""
            [model]
            name = "logistic"
            [data]
            path = "data.safetensors"
            shuffle = false
            [batch]
            global = 32
            [schedule]
            base_lr = 0.2
            warmup = "20ba"
            warmup_start_factor = 0.1
            decay = "cosine"
            min_lr_factor = 0.05
            [warm_start]
            from = "initial.safetensors"
            [run]
            directory = "run"
            duration = "100ba"
            log_every = "1ba"
            """)
        unused = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.2)
        schedulers = torch.optim.lr_scheduler
        warmup = schedulers.LinearLR(unused, start_factor=0.1, total_iters=20)
        cosine = schedulers.CosineAnnealingLR(unused, T_max=80, eta_min=0.2 * 0.05)
        schedule = schedulers.SequentialLR(unused, [warmup, cosine], milestones=[20])
        rates = []
        for _ in range(100):
            rates.append(unused.param_groups[0]["lr"])
            unused.step()
            schedule.step()
        optimizer = torch.optim.SGD(model.parameters(), lr=1)
        history = train(model, optimizer, self.data, batch=32, count=100, rate=lambda seen: rates[seen // 32])
        self.check(job, history, model, worlds=[1, 2])

    def test_resnet18(self):
        torch.manual_seed(5)
        model = ResNet18(3, 4)
        data = harness.clusters(32, features=3 * 8 * 8, spread=1)
        data["x"] = data["x"].reshape(32, 3, 8, 8)
        self.prepare(model, data)
        job = self.write_job("""
            [model]
            name = "resnet18"
            [data]
            path = "data.safetensors"
            shuffle = false
            [batch]
            global = 16
            [optimizer]
            momentum = 0.9
            weight_decay = 5e-4
            [schedule]
            base_lr = 0.01
            [warm_start]
            from = "initial.safetensors"
            [checkpoint]
            every = "6ba"
            [run]
            directory = "run"
            duration = "6ba"
            log_every = "1ba"
            """)
        optimizer = torch.optim.SGD(two_groups(model, 5e-4), lr=1, momentum=0.9)
        history = train(model, optimizer, self.data, batch=16, count=6, rate=lambda seen: 0.01)
        self.check(job, history, model, worlds=[1])


if __name__ == "__main__":
    unittest.main()
