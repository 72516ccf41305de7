# SPDX-License-Identifier: Apache-2.0
"""The rate of every step, as `rekindle plan` tells it, against PyTorch's schedulers and those of transformers."""

import json
import os
import pathlib
import subprocess
import sys
import unittest

import numpy
import torch

import harness

# In an environment of its own, for it is for this test alone. The second run finds it.
ENVIRONMENT = pathlib.Path(os.environ["REKINDLE_BUILD"]) / "transformers"
PINNED = "transformers==4.57.1"

STEPS, WARMUP, LR = 120, 30, 0.4
JOB = """
    [model]
    name = "logistic"
    [data]
    path = "data.safetensors"
    [batch]
    global = 16
    [schedule]
    base_lr = 0.4
    [run]
    directory = "run"
    duration = "120ba"
    """


def transformers():
    """The module transformers.optimization; skips the test where it cannot be had."""
    done = ENVIRONMENT / f".{PINNED}"
    if not done.exists():
        install = subprocess.run([sys.executable, "-m", "pip", "install", "-q", "--target", ENVIRONMENT, PINNED],
                                 capture_output=True, text=True)
        if install.returncode != 0:
            raise unittest.SkipTest(f"{PINNED} cannot be installed: {install.stderr.strip().splitlines()[-1]}")
        done.touch()
    if str(ENVIRONMENT) not in sys.path:
        sys.path.append(str(ENVIRONMENT))
    import transformers.optimization
    return transformers.optimization


def optimizer():
    return torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=LR)


def rates_of(make, steps=STEPS):
    """What a scheduler gives for each step."""
    stepped = optimizer()
    scheduler = make(stepped)
    rates = []
    for _ in range(steps):
        rates.append(stepped.param_groups[0]["lr"])
        stepped.step()
        scheduler.step()
    return rates


class Schedules(harness.Case):
    def setUp(self):
        super().setUp()
        self.write_data(harness.clusters(640, features=4))
        self.job = self.write_job(JOB)

    def planned(self, *settings):
        return self.plan(*settings)[0]["schedule"]

    def plan(self, *settings, arguments=("--schedule",)):
        result = subprocess.run([harness.LAUNCHER, "plan", self.job, "--worker", harness.WORKER, "--json", *arguments,
                                 *settings], capture_output=True, text=True)
        self.assertEqual(result.returncode, 0, result.stderr)
        return json.loads(result.stdout)

    def compare(self, make, *settings):
        expected = rates_of(make)
        planned = self.planned(*settings)
        self.assertEqual([row[:2] for row in planned], [[step, 16 * step] for step in range(STEPS)])
        numpy.testing.assert_allclose([row[2] for row in planned], expected, rtol=1e-7, atol=1e-12 * LR,
                                      err_msg=str(settings))

    def test_transformers(self):
        of = transformers()
        warm = f"schedule.warmup={WARMUP}ba"
        self.compare(lambda o: of.get_constant_schedule_with_warmup(o, WARMUP), warm)
        self.compare(lambda o: of.get_linear_schedule_with_warmup(o, WARMUP, STEPS), warm, "schedule.decay=linear")
        self.compare(lambda o: of.get_cosine_schedule_with_warmup(o, WARMUP, STEPS), warm, "schedule.decay=cosine")
        self.compare(lambda o: of.get_cosine_with_hard_restarts_schedule_with_warmup(o, WARMUP, STEPS, num_cycles=3),
                     warm, "schedule.decay=cosine", "schedule.cycles=3")
        self.compare(lambda o: of.get_cosine_with_min_lr_schedule_with_warmup(o, WARMUP, STEPS, min_lr_rate=0.1),
                     warm, "schedule.decay=cosine", "schedule.min_lr_factor=0.1")
        self.compare(lambda o: of.get_polynomial_decay_schedule_with_warmup(o, WARMUP, STEPS, lr_end=0.04, power=2),
                     warm, "schedule.decay=polynomial", "schedule.decay_power=2", "schedule.min_lr_factor=0.1")
        self.compare(lambda o: of.get_inverse_sqrt_schedule(o, WARMUP), warm, "schedule.decay=inverse-sqrt")
        self.compare(lambda o: of.get_inverse_sqrt_schedule(o, WARMUP, timescale=50), warm,
                     "schedule.decay=inverse-sqrt", "schedule.timescale=50ba")
        for shape in "linear", "cosine", "1-sqrt":
            self.compare(lambda o: of.get_wsd_schedule(o, WARMUP, 40, STEPS, decay_type=shape, min_lr_ratio=0.05),
                         warm, "schedule.warmup_start_factor=0.05", "schedule.decay=wsd", "schedule.cooldown=40ba",
                         f"schedule.cooldown_shape={shape}", "schedule.min_lr_factor=0.05")
        self.compare(lambda o: of.get_wsd_schedule(o, WARMUP, 40, STEPS, warmup_type="cosine", decay_type="linear"),
                     warm, "schedule.warmup_shape=cosine", "schedule.decay=wsd", "schedule.cooldown=40ba")

    def test_pytorch(self):
        of = torch.optim.lr_scheduler

        def after(scheduler, start=0.1):
            """A linear warm-up from a share of the rate, and then `scheduler`."""
            return lambda o: of.SequentialLR(
                o, [of.LinearLR(o, start_factor=start, total_iters=WARMUP), scheduler(o)], [WARMUP])

        warm = f"schedule.warmup={WARMUP}ba", "schedule.warmup_start_factor=0.1"
        self.compare(after(lambda o: of.ConstantLR(o, factor=1)), *warm)
        self.compare(after(lambda o: of.CosineAnnealingLR(o, STEPS - WARMUP, eta_min=0.04)), *warm,
                     "schedule.decay=cosine", "schedule.min_lr_factor=0.1")
        self.compare(after(lambda o: of.CosineAnnealingWarmRestarts(o, (STEPS - WARMUP) // 3)), *warm,
                     "schedule.decay=cosine", "schedule.cycles=3")
        self.compare(after(lambda o: of.StepLR(o, 25, gamma=0.3)), *warm, "schedule.decay=step",
                     "schedule.decay_every=25ba", "schedule.decay_factor=0.3")
        self.compare(after(lambda o: of.MultiStepLR(o, [10, 33, 70], gamma=0.1)), *warm, "schedule.decay=step",
                     'schedule.decay_at=["40ba", "63ba", "100ba"]')   # counted from the beginning of the run
        self.compare(after(lambda o: of.ExponentialLR(o, gamma=0.97)), *warm, "schedule.decay=exponential",
                     "schedule.decay_every=1ba", "schedule.decay_factor=0.97")
        self.compare(after(lambda o: of.PolynomialLR(o, STEPS - WARMUP, power=1.5)), *warm, "schedule.decay=polynomial",
                     "schedule.decay_power=1.5")
        self.compare(after(lambda o: of.LinearLR(o, 1, 0.2, STEPS - WARMUP)), *warm, "schedule.decay=linear",
                     "schedule.min_lr_factor=0.2")
        # ConstantLR holds the share of the peak, and then jumps.
        self.compare(lambda o: of.ConstantLR(o, factor=0.25, total_iters=WARMUP), f"schedule.warmup={WARMUP}ba",
                     "schedule.warmup_shape=constant", "schedule.warmup_start_factor=0.25")
        # A rise by a factor each step.
        self.compare(lambda o: of.LambdaLR(o, lambda step: 0.01 ** (1 - min(step, WARMUP) / WARMUP)),
                     f"schedule.warmup={WARMUP}ba", "schedule.warmup_shape=exponential", "schedule.warmup_start_lr=0.004")

    def test_one_cycle(self):
        """PyTorch's turns at step 0.3 T - 1 and ends at step T - 1, ours at 0.3 T and T."""
        steps = STEPS + 1
        expected = rates_of(lambda o: torch.optim.lr_scheduler.OneCycleLR(
            o, max_lr=LR, total_steps=steps, pct_start=37 / steps, cycle_momentum=False), STEPS)
        planned = self.planned("schedule.decay=one-cycle", "schedule.warmup=36ba")
        numpy.testing.assert_allclose([row[2] for row in planned], expected, rtol=1e-7)
        planned = self.planned("schedule.decay=one-cycle")
        self.assertEqual(planned[36][2], LR)
        self.assertAlmostEqual(planned[0][2], LR / 25)

    def test_radam(self):
        """The factor that PyTorch's RAdam puts before Adam's update, told from updates with equal gradients."""
        beta2 = 0.99
        rates = [row[2] for row in self.planned("optimizer.name=adamw", f"optimizer.betas=[0.9, {beta2}]",
                                                "schedule.warmup=radam")]
        weights = [torch.zeros(1, dtype=torch.float64, requires_grad=True) for _ in range(2)]
        rectified = torch.optim.RAdam([weights[0]], lr=LR, betas=(0.9, beta2), eps=1e-300)
        plain = torch.optim.Adam([weights[1]], lr=LR, betas=(0.9, beta2), eps=1e-300)
        for step in range(STEPS):
            before = [weight.item() for weight in weights]
            for weight, rule in zip(weights, (rectified, plain)):
                weight.grad = torch.ones_like(weight)
                rule.step()
            moved = [weight.item() - was for weight, was in zip(weights, before)]
            if rates[step] == 0:
                self.assertLess(step, 5)
            else:
                self.assertAlmostEqual(rates[step] / LR, moved[0] / moved[1], delta=1e-6)

    def test_a_run_trains_at_what_is_planned(self):
        """Also where the rate follows the step and not the samples."""
        settings = ("optimizer.name=adamw", "optimizer.betas=[0.9, 0.95]", "schedule.warmup=radam", "schedule.decay=linear",
                    "run.duration=60ba", "run.log_every=1ba")
        self.run_well(self.job, *settings, workers=2)
        logged = [event["lr"] for event in harness.events(self.folder / "run", "step")]
        self.assertEqual(logged, [row[2] for row in self.planned(*settings)])
        self.assertEqual(logged[0], 0)
        self.assertGreater(logged[30], 0)

    def test_lengths_that_are_not_quite_whole(self):
        """0.14 epochs of 300 samples are 42, and not a hair more."""
        self.write_data(harness.clusters(300, features=4))
        rows = self.planned("batch.global=21", "run.duration=0.14ep", "schedule.decay=cosine")
        self.assertEqual([row[0] for row in rows], [0, 1])

    def test_what_is_refused(self):
        for settings, words in (
                (("optimizer.name=adamw", "optimizer.betas=[0.9, 0.6]", "schedule.warmup=radam"), "never begins"),
                (('optimizer.groups=[{match=["nothing.*"], lr_factor=3}]',), "has no parameter"),
                (('optimizer.groups=[{match=["*"], lr_factor=3}, {match=["*.bias"], freeze=true}]',), "has no parameter"),
                (('optimizer.groups=[{match=["*"], freeze=true}]',), "nothing is left to train"),
                (("schedule.warmup=70ba",), "more than half of the run")):
            with self.subTest(words, settings=settings):
                result = harness.run([harness.LAUNCHER, "plan", self.job, "--worker", harness.WORKER, *settings])
                self.assertEqual(result.code, 78, result.text)
                self.assertIn(words, result.text)
                if "half" not in words:
                    self.assertIn(words, self.run_well(self.job, *settings, workers=2, code=78).text)
                self.assertFalse((self.folder / "run").exists())
        self.plan("schedule.warmup=70ba", "schedule.long_warmup=true")

    def test_drawings(self):
        settings = "schedule.warmup=60ba", "schedule.decay=wsd", "schedule.cooldown=30ba"
        result = harness.run([harness.LAUNCHER, "plan", self.job, "--worker", harness.WORKER, "--plot", "--svg",
                              self.folder / "rate.svg", *settings])
        self.assertEqual(result.code, 0, result.text)
        drawn = [line.split("│")[1] for line in result.text.splitlines() if "│" in line]
        self.assertEqual(len(drawn), 12)
        widths = [len(line.rstrip()) - len(line) + len(line.lstrip()) for line in drawn]
        self.assertEqual(widths, sorted(widths))   # wider towards the bottom: it rises, stays and falls
        picture = (self.folder / "rate.svg").read_text()
        points = [tuple(map(float, point.split(","))) for point in picture.split('points="')[1].split('"')[0].split()]
        self.assertEqual(len(points), STEPS + 1)
        self.assertEqual([points[0][1], points[60][1], points[90][1]], [320, 40, 40])   # the axis, the peak twice
        self.assertAlmostEqual(points[-1][1], 320)

    def test_scaling_is_planned(self):
        row, = self.plan("optimizer.name=adamw", "schedule.base_batch=4", "schedule.lr_scaling=adam-sqrt",
                         "optimizer.betas=[0.9, 0.95]", arguments=())
        self.assertAlmostEqual(row["peak_lr"], 0.8)
        numpy.testing.assert_allclose([*row["betas"], row["eps"]], [0.6, 0.8, 5e-9], rtol=1e-12)
        result = harness.run([harness.LAUNCHER, "plan", self.job, "--worker", harness.WORKER, "optimizer.name=adamw",
                              "schedule.base_batch=1", "schedule.lr_scaling=adam-sqrt"])
        self.assertEqual(result.code, 78, result.text)
        self.assertIn("stay below 10,", result.text)


if __name__ == "__main__":
    unittest.main()
