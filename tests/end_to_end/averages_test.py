# SPDX-License-Identifier: Apache-2.0
"""What a run keeps beside its weights, against PyTorch: averaged weights, momentum and rates that follow the run,
precisions with their loss scale, and what is told of gradients and updates."""

import unittest

import numpy
import torch

import harness
import oracle_test

torch.set_num_threads(1)

JOB = """
    [model]
    hidden = [10]
    [data]
    path = "data.safetensors"
    shuffle = false
    [batch]
    global = 16
    [optimizer]
    momentum = 0.9
    [schedule]
    base_lr = 0.05
    [warm_start]
    from = "initial.safetensors"
    [run]
    directory = "run"
    duration = "100ba"
    log_every = "1ba"
    """


def flat(tensors):
    return torch.cat([tensor.detach().double().flatten() for tensor in tensors])


def weights_of(model):
    return flat(tensor for _, tensor in sorted(model.state_dict().items()))


def shares(batch, workers):
    """What each of them has of a batch."""
    working = min(batch, workers)
    return [slice(batch * i // working, batch * (i + 1) // working) for i in range(working)]


def backward(model, x, y, workers, precision=torch.float32, scale=1.0):
    """Gives the model the gradient of the batch, share by share. Returns the loss, and of each share its samples and
    its gradient."""
    total, passes = 0.0, []
    parameters = list(model.parameters())
    for share in shares(len(y), workers):
        samples = share.stop - share.start
        with torch.autocast("cpu", precision, enabled=precision != torch.float32):
            loss = torch.nn.functional.cross_entropy(model(x[share]), y[share])
        weight = samples / len(y)
        passes.append((samples, torch.autograd.grad(loss.float(), parameters, torch.tensor(weight * scale))))
        total += weight * loss.item()
    for i, parameter in enumerate(parameters):
        parameter.grad = sum(gradients[i] for _, gradients in passes)
    return total, [(samples, flat(gradients) * (len(y) / samples / scale)) for samples, gradients in passes]


class Averages(oracle_test.Replay):
    def prepare_clusters(self, seed, samples=160, hidden=(10,), spread=3.0, scale=1.0):
        """The model, and the job that trains it on clusters."""
        torch.manual_seed(seed)
        model = oracle_test.Mlp(6, list(hidden), 3)
        data = harness.clusters(samples, classes=3, features=6, spread=spread)
        data["x"] *= scale
        self.prepare(model, data)
        return model, self.write_job(JOB.replace("[10]", str(list(hidden))))

    def run_in(self, name, job, *settings, workers=1):
        """Its directory."""
        self.run_well(job, f"run.directory={self.folder / name}", *settings, workers=workers)
        return self.folder / name

    def trained_on(self, job, model, *settings):
        """The samples that are not held out. Each is a step of a run that stays where it began: its loss tells it."""
        directory = self.run_in("one-by-one", job, "batch.global=1", "schedule.base_lr=1e-30", "run.duration=1ep",
                                *settings)
        with torch.no_grad():
            losses = torch.nn.functional.cross_entropy(model(self.data["x"]), self.data["y"], reduction="none")
        positions, at = [], 0
        for step in harness.steps(directory).values():
            while abs(losses[at].item() - step["loss"]) > 1e-6 * (1 + step["loss"]):
                at += 1
            positions.append(at)
            at += 1
        return positions

    def test_averaged_weights(self):
        """In their average each weight counts half after so many samples; a short batch adds less. They are what is
        scored and saved, and the trained ones lie with the moments; or the other way round."""
        model, job = self.prepare_clusters(1, samples=262)
        split = "evaluation.validation=0.3"
        positions = self.trained_on(job, model, split)
        held_out = sorted(set(range(262)) - set(positions))
        self.assertNotIn(len(positions) % 16, (0, 15), "the test needs a short batch")
        shown = {name: tensor[held_out] for name, tensor in self.data.items()}
        self.data = {name: tensor[positions] for name, tensor in self.data.items()}
        average = torch.optim.swa_utils.AveragedModel(model)

        def follow(samples):
            kept = 2 ** (-samples / 300)
            for mean, weight in zip(average.parameters(), model.parameters()):
                mean.detach().mul_(kept).add_(weight.detach(), alpha=1 - kept)

        optimizer = torch.optim.SGD(model.parameters(), lr=1, momentum=0.9)
        history = oracle_test.train(model, optimizer, self.data, batch=16, count=100, rate=lambda seen: 0.05,
                                    after=follow)
        trained, averaged = model.state_dict(), average.module.state_dict()
        self.assertGreater((flat(trained.values()) - flat(averaged.values())).abs().max(), 0.05)
        for settings, workers, saved, other in (((), 1, averaged, trained), ((), 3, averaged, trained),
                                                (("evaluation.weights=trained",), 2, trained, averaged)):
            with self.subTest(settings=settings, workers=workers):
                directory = self.run_in(f"average-{workers}", job, split, "optimizer.ema_half_life=300sp",
                                        "evaluation.every=7ba", "checkpoint.every=11ba", *settings, workers=workers)
                self.compare(harness.steps(directory), history)
                self.compare_weights(harness.weights(directory), saved)
                beside = harness.moments(harness.latest(directory))
                self.compare_weights({name: beside[f"{name} other_weights"].reshape(saved[name].shape)
                                      for name in saved}, other)
                scored = oracle_test.Mlp(6, [10], 3)
                scored.load_state_dict(saved)
                loss = torch.nn.functional.cross_entropy(scored(shown["x"]), shown["y"]).item()
                last = harness.events(directory, "eval")[-1]
                self.assertEqual((last["step"], last["n"]), (100, len(held_out)))
                self.assertAlmostEqual(last["metrics"]["loss"], loss, delta=1e-4 * loss)
                said = harness.run([harness.LAUNCHER, "inspect", directory]).text
                self.assertEqual("averaged over steps" in said, saved is averaged, said)
                said = harness.run([harness.LAUNCHER, "lineage", self.folder]).text
                line = next(line for line in said.splitlines() if directory.name in line)
                self.assertEqual(", averaged" in line, saved is averaged, said)

    def test_one_cycle_of_momentum(self):
        """As the rate rises momentum falls, and the other way round. PyTorch's turns at step 0.3 T - 1 and ends at step
        T - 1, ours at 0.3 T and T."""
        for name, of, rate, settings in (
                ("sgd", torch.optim.SGD, 0.1, 'optimizer={name="sgd", momentum=0.8, weight_decay=0.01}'),
                ("adamw", torch.optim.AdamW, 0.02, 'optimizer={name="adamw", betas=[0.8, 0.99]}')):
            torch.manual_seed(9)
            model = oracle_test.Mlp(6, [10], 3)
            self.prepare(model, harness.clusters(160, classes=3, features=6, spread=3))
            job = self.write_job("""
                [model]
                hidden = [10]
                [data]
                path = "data.safetensors"
                shuffle = false
                [batch]
                global = 16
                [schedule]
                base_lr = 0.1
                decay = "one-cycle"
                warmup = "36ba"
                warmup_momentum = 0.95
                [warm_start]
                from = "initial.safetensors"
                [run]
                duration = "120ba"
                log_every = "1ba"
                """)
            adam = {"betas": (0.8, 0.99)} if name == "adamw" else {"momentum": 0.8}
            optimizer = of(oracle_test.two_groups(model, 0.01), lr=1, **adam)
            cycle = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=rate, total_steps=121, pct_start=37 / 121,
                                                        base_momentum=0.8, max_momentum=0.95)
            history = oracle_test.train(model, optimizer, self.data, batch=16, count=120,
                            after=lambda samples: cycle.step(), rate=lambda seen: optimizer.param_groups[0]["lr"])
            with self.subTest(name):
                directory = self.folder / name
                self.run_well(job, settings, f"schedule.base_lr={rate}", f"run.directory={directory}", workers=2)
                steps = harness.steps(directory)
                self.compare(steps, history, rate=1e-7)
                self.compare_weights(harness.weights(directory), model.state_dict())

    def test_plateaus(self):
        """The rate falls where PyTorch's ReduceLROnPlateau has it fall, told by the run's own evaluations; those in the
        warm-up, where nothing gets better, do not count."""
        _, job = self.prepare_clusters(2, samples=480)
        by_loss = {"mode": "min", "patience": 3, "threshold": 0.02, "cooldown": 2}
        by_accuracy = {"mode": "max", "patience": 2, "threshold": 0.01, "cooldown": 3}
        for metric, workers, settings in ("loss", 1, by_loss), ("accuracy", 2, by_accuracy):
            with self.subTest(metric):
                keys = [f"schedule.decay_{name}={settings[name]}" for name in ("patience", "threshold", "cooldown")]
                directory = self.run_in(metric, job, "evaluation.validation=0.5", "evaluation.every=2ba",
                                        "run.duration=150ba", "schedule.base_lr=0.02", "schedule.warmup=20ba",
                                        "schedule.warmup_shape=constant", "schedule.warmup_start_factor=1e-6",
                                        "schedule.decay=plateau", f"schedule.decay_metric={metric}", *keys,
                                        "schedule.decay_factor=0.4", "schedule.min_lr_factor=0.03", workers=workers)
                scores = {event["step"]: event["metrics"][metric] for event in harness.events(directory, "eval")
                          if (event["set"], event["model"]) == ("validation", "child")}
                rates = self.plateau_rates(scores, settings)
                logged = [step["lr"] for step in harness.steps(directory).values()]
                numpy.testing.assert_allclose(logged, rates, rtol=1e-9)
                self.assertAlmostEqual(rates[-1], 0.02 * 0.03)
                for name, value in ("patience", settings["patience"] + 1), ("threshold", 0), ("cooldown", 0):
                    other = self.plateau_rates(scores, {**settings, name: value})
                    self.assertFalse(other == rates, f"the test needs scores where the {name} matters")

    def plateau_rates(self, scores, settings):
        """Of each step."""
        optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.02)
        scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, factor=0.4, min_lr=0.02 * 0.03, **settings)
        rates = []
        for step in range(150):
            if step >= 20 and step in scores:
                scheduler.step(scores[step])
            rates.append(optimizer.param_groups[0]["lr"] if step >= 20 else 0.02 * 1e-6)
        return rates

    def test_bfloat16(self):
        """As PyTorch's autocast, worker by worker, and away from float32."""
        initial, job = self.prepare_clusters(3)
        for workers in 1, 2:
            trained = {}
            for precision in torch.bfloat16, torch.float32:
                model = oracle_test.Mlp(6, [10], 3)
                model.load_state_dict(initial.state_dict())
                optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
                losses = []
                for positions in oracle_test.batches(160, 16, 60):
                    losses.append(backward(model, self.data["x"][positions], self.data["y"][positions], workers,
                                           precision)[0])
                    optimizer.step()
                trained[precision] = torch.tensor(losses), weights_of(model)
            directory = self.run_in(f"workers-{workers}", job, "run.precision=bfloat16", "schedule.base_lr=0.01",
                                    "run.duration=60ba", workers=workers)
            with self.subTest(workers=workers):
                losses, weights = self.result_of(directory)
                theirs, full = trained[torch.bfloat16], trained[torch.float32]
                torch.testing.assert_close(losses, theirs[0], rtol=1e-3, atol=0)
                torch.testing.assert_close(weights, theirs[1], rtol=0, atol=2e-3)
                torch.testing.assert_close(losses, full[0], rtol=2e-2, atol=0)
                torch.testing.assert_close(weights, full[1], rtol=0, atol=5e-2)
                self.assertGreater((losses - full[0]).abs().max(), 2e-3)
                self.assertGreater((weights - full[1]).abs().max(), 5e-3)

    def result_of(self, directory):
        """The losses of all steps, and the final weights."""
        losses = torch.tensor([step["loss"] for step in harness.steps(directory).values()])
        return losses, flat(torch.from_numpy(tensor.copy()) for _, tensor in sorted(harness.weights(directory).items()))

    def test_float16(self):
        """The loss is scaled as PyTorch's GradScaler does it: half as much, and no update, where a gradient overflows;
        twice as much after 2000 good steps."""
        initial, job = self.prepare_clusters(4, spread=1.0, scale=8.0)
        trained = {}
        for precision in torch.float16, torch.float32:
            model = oracle_test.Mlp(6, [10], 3)
            model.load_state_dict(initial.state_dict())
            optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9)
            scaler = torch.amp.GradScaler("cpu", enabled=precision == torch.float16)
            losses, scales = [], []
            for positions in oracle_test.batches(160, 16, 2100):
                losses.append(backward(model, self.data["x"][positions], self.data["y"][positions], 1, precision,
                                       scaler.get_scale())[0])
                scaler.scale(torch.zeros(()))   # for it to begin
                scaler.step(optimizer)
                scaler.update()
                scales.append(scaler.get_scale())
            trained[precision] = torch.tensor(losses), weights_of(model), scales
        directory = self.run_in("float16", job, "run.precision=float16", "schedule.base_lr=1e-3", "run.duration=2100ba")
        scales = [step["loss_scale"] for step in harness.steps(directory).values()]
        half, full = trained[torch.float16], trained[torch.float32]
        self.assertEqual(scales, half[2])
        self.assertLess(scales[0], 65536, "the test needs an overflow")
        self.assertGreater(scales[-1], min(scales), "the test needs 2000 good steps")
        losses, weights = self.result_of(directory)
        torch.testing.assert_close(losses, half[0], rtol=1e-3, atol=1e-5)
        torch.testing.assert_close(weights, half[1], rtol=0, atol=1e-3)
        torch.testing.assert_close(weights, full[1], rtol=0, atol=3e-2)
        self.assertGreater((weights - full[1]).abs().max(), 1e-3)
        self.assertGreater((weights - weights_of(initial)).abs().max(), 0.3)

    def test_noise_scale(self):
        """From the gradients of the workers' shares, or of the passes of one worker, as McCandlish et al. have it, and
        AdaScale's gain from it. The last batch of an epoch is one sample, which tells nothing, and has neither."""
        model, job = self.prepare_clusters(5, samples=161)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
        noise, signal, expected = 0.0, 0.0, []
        for positions in oracle_test.batches(161, 16, 100):
            y = self.data["y"][positions]
            _, passes = backward(model, self.data["x"][positions], y, workers=3)
            if len(passes) > 1:
                whole = flat(p.grad for p in model.parameters()).square().sum().item()
                small = sum(gradient.square().sum().item() for _, gradient in passes) / len(passes)
                inverse = sum(1 / samples for samples, _ in passes) / len(passes)
                variance = (small - whole) / (inverse - 1 / len(y))
                noise += 0.02 * (variance - noise)
                signal += 0.02 * (whole - variance / len(y) - signal)
            if len(passes) > 1 and noise > 0 and signal > 0:
                scale = noise / signal
                expected.append((scale, (scale / 4 + 1) / (scale / len(y) + 1)))
            else:
                expected.append((None, None))   # it cannot be told yet
            optimizer.step()
        self.assertGreater(sum(scale is not None for scale, _ in expected), 50)
        for workers, settings in (3, ()), (1, ("batch.microbatch=6",)):
            with self.subTest(workers=workers):
                directory = self.run_in(f"workers-{workers}", job, 'run.diagnostics=["noise-scale"]',
                                        "schedule.base_lr=0.01", "schedule.base_batch=4", *settings, workers=workers)
                logged = [(step.get("noise_scale"), step.get("adascale_gain"))
                          for step in harness.steps(directory).values()]
                numpy.testing.assert_allclose(numpy.array(logged, float), numpy.array(expected, float), rtol=1e-3)

    def test_update_ratio(self):
        """How far each group moves in a step, as a share of where it stood."""
        model, job = self.prepare_clusters(6, hidden=(80, 80))
        diagnostics = 'run.diagnostics=["update-ratio"]'
        matched = 'optimizer.groups=[{match=["layers.1.*", "layers.2.bias"], lr_factor=3}]'
        group = [*model.layers[1].parameters(), model.layers[2].bias]
        others = [*model.layers[0].parameters(), model.layers[2].weight]
        ratios, before = [], []

        def hold(step):
            before[:] = flat(group), flat(others)

        def compare(samples):
            after = flat(group), flat(others)
            ratios.append([((now - was).norm() / was.norm()).item() for now, was in zip(after, before)])

        optimizer = torch.optim.SGD([{"params": others}, {"params": group, "factor": 3}], lr=1, momentum=0.9)
        history = oracle_test.train(model, optimizer, self.data, batch=16, count=30, rate=lambda seen: 0.05,
                                    before=hold, after=compare)
        for workers in 1, 2:
            with self.subTest(workers=workers):
                directory = self.run_in(f"workers-{workers}", job, matched, diagnostics, "run.duration=30ba",
                                        workers=workers)
                steps = harness.steps(directory)
                self.compare(steps, history)
                logged = [step["update_ratio"] for step in steps.values()]
                for ratio in logged:
                    self.assertEqual(sorted(ratio), ["layers.1.* and layers.2.bias", "others"])
                numpy.testing.assert_allclose([list(dict(sorted(ratio.items())).values()) for ratio in logged], ratios,
                                              rtol=1e-3)

    def test_update_ratio_of_every_step_that_is_logged(self):
        """Also of the last one, which is logged though none was due."""
        _, job = self.prepare_clusters(6)
        directory = self.run_in("run", job, 'run.diagnostics=["update-ratio"]', "run.log_every=10ba",
                                "run.duration=25ba")
        steps = harness.steps(directory)
        self.assertEqual(list(steps), [0, 9, 19, 24])
        self.assertEqual([step for step, event in steps.items() if "update_ratio" in event], [0, 9, 19, 24])


if __name__ == "__main__":
    unittest.main()
