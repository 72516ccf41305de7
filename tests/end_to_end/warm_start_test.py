# SPDX-License-Identifier: Apache-2.0
"""Retraining day by day: what a child takes from its parent, how both are compared, and what the line then serves."""

import json
import unittest

import numpy
from safetensors.numpy import load_file, save_file

import harness

# Day 2 has clouds in other places than day 1, so that its parent cannot know them.
DAYS = [harness.clusters(600, spread=0.5, seed=number, centres_seed=number) for number in (1, 2)]
TWO_DAYS = 'data.increments=["day1.safetensors", "day2.safetensors"]'

SHAPES = {"layers.0.weight": (24, 8), "layers.0.bias": (24,), "layers.1.weight": (16, 24), "layers.1.bias": (16,),
          "layers.2.weight": (4, 16), "layers.2.bias": (4,)}


class Line(harness.Case):
    """A job that is retrained day by day, and what tests ask of it."""

    def setUp(self):
        super().setUp()
        for number, day in enumerate(DAYS, 1):
            self.write_data(day, f"day{number}.safetensors")
        self.job = self.write_job("""
            [model]
            hidden = [24, 16]
            [data]
            increments = ["day1.safetensors"]
            [batch]
            global = 32
            [optimizer]
            momentum = 0.9
            [schedule]
            base_lr = 0.1
            base_batch = 64
            lr_scaling = "linear"
            warmup = "1ep"
            decay = "cosine"
            [warm_start]
            from = "promoted"
            [evaluation]
            validation = 0.1
            test = 0.2
            [verdict]
            [run]
            line = "line"
            duration = "6ep"
            """)
        self.line = self.folder / "line"

    def train_day_1(self, *settings):
        self.run_well(self.job, *settings, workers=2)
        return harness.runs(self.line)[-1]

    def train_day_2(self, *settings):
        """Returns the result; the run is the newest one of the line."""
        return self.run_well(self.job, TWO_DAYS, *settings, workers=2)

    def kill_day_2(self, *settings):
        """Returns a run of day 2 that was killed after a checkpoint, and a step at which it may end."""
        before = len(harness.runs(self.line))
        endless = "run.duration=1000000ep", "checkpoint.every=10ba"
        with harness.Live(harness.launch(self.job, TWO_DAYS, *endless, *settings, workers=2)) as live:
            live.wait_for(lambda: len(harness.runs(self.line)) > before and harness.events(self.newest(), "checkpoint"))
            live.kill_rank(1)
            self.assertEqual(live.result().code, 1)
        return self.newest(), harness.events(self.newest(), "checkpoint")[-1]["step"] + 40

    def newest(self):
        return harness.runs(self.line)[-1]

    def served(self):
        return (self.line / "promoted").resolve(strict=True)

    def verdict(self, directory):
        verdict = harness.document(directory / "verdict.json")
        in_log = harness.events(directory, "verdict")[-1]
        self.assertEqual({"event": "verdict", **verdict}, in_log)
        return verdict

    def digest(self, checkpoint):
        return harness.document(checkpoint / "manifest.json")["digest"]

    def scores(self, directory, model, chosen):
        """Evaluations of parent or child on one set, in order of time."""
        return [event for event in harness.events(directory, "eval")
                if event["model"] == model and event["set"] == chosen]


class Retraining(Line):
    def test_first_day(self):
        result = self.run_well(self.job, workers=2)
        self.assert_says(result, "nothing is promoted in this line yet: starting cold", "verdict: promoted (first)")
        day1 = self.newest()
        self.assertRegex(day1.name, r"^\d{4}-\d\d-\d\dT\d\d-\d\d-\d\dZ$")
        self.assertEqual(self.served(), harness.latest(day1))

        verdict = self.verdict(day1)
        self.assertEqual([verdict["verdict"], verdict["reason"], verdict["parent"]], ["promoted", "first", None])
        self.assertEqual(verdict["child"], self.digest(self.served()))
        self.assertEqual(verdict["old"]["n"], 0)
        self.assertEqual(verdict["new"]["parent"], None)
        self.assertGreater(verdict["new"]["child"], 0.9)   # it has learnt something
        self.assertEqual(harness.events(day1, "warm_start"), [])

        tensors = load_file(self.served() / "model.safetensors")
        self.assertEqual({name: tensor.shape for name, tensor in tensors.items()}, SHAPES)
        self.assertEqual({tensor.dtype for tensor in tensors.values()}, {numpy.dtype("float32")})

    def test_second_day(self):
        day1 = self.train_day_1()
        parent = self.served()
        result = self.train_day_2()
        self.assert_says(result, "at step 0 the child scores as its parent does")
        day2 = self.newest()
        self.assertNotEqual(day1, day2)
        self.assertEqual(self.served(), harness.latest(day2))

        log = harness.metrics(day2)
        started = log[1]
        self.assertEqual([started["event"], started["parent"]], ["warm_start", self.digest(parent)])
        self.assertEqual([started["loaded"], started["fresh"], started["renamed"], started["resized"]], [1, 0, 0, 0])
        self.assertGreater(started["seconds"], 0)
        self.assertGreater(started["gb_per_s"], 0)

        # The parent is heard first, the child scores as it does at step 0, and both see the same samples.
        evaluations = [event for event in log if event["event"] == "eval"]
        heard = [(event["model"], event["set"]) for event in evaluations]
        self.assertEqual(heard[:3], [("parent", name) for name in ("test_old", "test_new", "validation")])
        self.assertEqual(heard[3:4] + heard[-2:], [("child", name) for name in ("validation", "test_old", "test_new")])
        self.assertEqual(evaluations[3]["step"], 0)
        self.assertEqual(evaluations[2]["metrics"], evaluations[3]["metrics"])

        verdict = self.verdict(day2)
        self.assertEqual([verdict["verdict"], verdict["metric"]], ["promoted", "accuracy"])
        self.assertEqual([verdict["parent"], verdict["child"]], [self.digest(parent), self.digest(self.served())])
        for name in "old", "new":
            part = verdict[name]
            self.assertEqual(set(part), {"n", "parent", "child", "difference", "low", "high"})
            for model in "parent", "child":
                last = self.scores(day2, model, f"test_{name}")[-1]
                self.assertEqual([part["n"], part[model]], [last["n"], last["metrics"]["accuracy"]])
            self.assertAlmostEqual(part["difference"], part["child"] - part["parent"], places=12)
            self.assertTrue(part["low"] <= part["difference"] <= part["high"])
        self.assertEqual(verdict["old"]["n"], self.verdict(day1)["new"]["n"])   # no sample changed side
        self.assertEqual(verdict["old"]["parent"], self.verdict(day1)["new"]["child"])
        self.assertGreater(verdict["new"]["low"], 0)

        lineage = harness.document(self.served() / "lineage.json")
        before = harness.document(parent / "lineage.json")
        self.assertEqual(lineage["parent"], self.digest(parent))
        self.assertEqual(before["parent"], "")
        self.assertEqual(lineage["increments"][0]["digest"], before["increments"][0]["digest"])
        self.assertEqual([part["samples"] for part in lineage["increments"]], [600, 600])

    def test_cold_outside_the_line(self):
        self.train_day_1()
        served = self.served()
        outside = self.folder / "cold"
        self.train_day_2(f"run.directory={outside}", f"warm_start.from={self.line}", "warm_start.strategy=cold")
        self.assertEqual(self.served(), served)
        self.assertEqual(len(harness.runs(self.line)), 1)
        verdict = self.verdict(outside)
        self.assertEqual(verdict["parent"], self.digest(served))
        self.assertFalse(verdict["promoted"])
        self.assertIsNotNone(verdict["new"]["low"])
        self.assertEqual(harness.events(outside, "warm_start"), [])
        # The same initial weights as any run with this seed, not the parent's.
        at_start = self.scores(outside, "child", "validation")[0]["metrics"]["accuracy"]
        self.assertLess(at_start, self.scores(outside, "parent", "validation")[0]["metrics"]["accuracy"])

    def test_parent_that_stays(self):
        self.train_day_1()
        served = self.served()
        self.train_day_2("verdict.min_gain=0.99")
        verdict = self.verdict(self.newest())
        self.assertEqual(verdict["verdict"], "kept-parent")
        self.assertEqual(self.served(), served)

        # The bounds of the same training once more lie on both sides of what is asked for now.
        unclear = f"verdict.min_gain={verdict['new']['difference']}"
        self.train_day_2(unclear)
        self.assertEqual(self.verdict(self.newest())["verdict"], "inconclusive")
        self.assertEqual(self.served(), served)
        self.train_day_2(unclear, "verdict.if_inconclusive=promote")
        self.assertEqual(self.verdict(self.newest())["verdict"], "inconclusive")
        self.assertEqual(self.served(), harness.latest(self.newest()))

    def test_forgetting(self):
        self.train_day_1()
        served = self.served()
        contradiction = {"x": numpy.repeat(DAYS[0]["x"], 3, axis=0), "y": numpy.repeat((DAYS[0]["y"] + 1) % 4, 3)}
        self.write_data(contradiction, "day2.safetensors")
        self.train_day_2()
        verdict = self.verdict(self.newest())
        self.assertLess(verdict["old"]["high"], -0.01)
        self.assertGreater(verdict["new"]["low"], 0)
        self.assertEqual(verdict["verdict"], "kept-parent")
        self.assertEqual(self.served(), served)

    def test_forgetting_that_cannot_be_measured(self):
        """Without the parent's data nobody knows what a child forgot, so it does not replace its parent."""
        day1 = self.train_day_1()
        served = self.served()
        result = self.run_well(self.job, 'data.increments=["day2.safetensors"]', workers=2)
        self.assert_says(result, "1 of the 1 increments that the parent was trained on are not in this job")
        verdict = self.verdict(self.newest())
        self.assertEqual((verdict["verdict"], verdict["old"]["n"], verdict["promoted"]), ("inconclusive", 0, False))
        self.assertIn("forgetting cannot be measured", verdict["reason"])
        self.assertEqual(self.served(), served)

        # What the weights were trained on is inherited: to a grandchild the first day's data are old.
        self.run_well(self.job, 'data.increments=["day2.safetensors"]', "verdict.if_inconclusive=promote", "run.seed=2",
                      workers=2)
        self.assertNotEqual(self.served(), served)
        self.run_well(self.job, 'data.increments=["day1.safetensors"]', "run.seed=3", workers=2)
        self.assertGreater(self.verdict(self.newest())["old"]["n"], 0)
        self.assertEqual(self.verdict(self.newest())["new"]["n"], 0)
        self.assertEqual(harness.runs(self.line)[0], day1)

    def test_loss_decides(self):
        self.train_day_1()
        self.train_day_2("verdict.metric=loss", "verdict.max_forgetting=1")
        verdict = self.verdict(self.newest())
        self.assertEqual([verdict["verdict"], verdict["metric"]], ["promoted", "loss"])
        self.assertLess(verdict["new"]["high"], 0)   # a fall is a gain
        self.assertEqual(self.served(), harness.latest(self.newest()))

    def test_unfinished_run_of_a_line_is_taken_up(self):
        self.train_day_1()
        killed, end = self.kill_day_2()
        result = self.train_day_2(f"run.duration={end}ba")
        self.assert_says(result, "resuming at step")
        self.assertEqual(self.newest(), killed)
        self.assertEqual(harness.events(killed, "end")[-1]["step"], end)
        self.assertEqual(self.served(), harness.latest(killed))

        other, _ = self.kill_day_2("run.seed=7")
        result = self.train_day_2("run.seed=8")
        self.assert_says(result, str(other), "not finished", "this job is another one")
        self.assertNotEqual(self.newest(), other)

    def test_resumed_child_keeps_its_parent(self):
        """What the line serves may change while a run is stopped; its parent does not."""
        self.train_day_1()
        parent = self.digest(self.served())
        killed, end = self.kill_day_2()
        self.train_day_2("run.seed=2")   # another job, which overtakes it
        overtook = self.served()
        self.assertNotEqual(self.digest(overtook), parent)

        self.train_day_2(f"run.duration={end}ba")
        self.assertEqual(harness.events(killed, "end")[-1]["step"], end)
        self.assertEqual(harness.document(harness.latest(killed) / "lineage.json")["parent"], parent)
        self.assertEqual(self.verdict(killed)["parent"], parent)
        self.assertEqual(self.served(), overtook)   # what another run promoted meanwhile stays

    def test_resumed_child_needs_its_parent_no_more(self):
        self.train_day_1()
        parent = self.digest(self.served())
        killed, end = self.kill_day_2()
        served = self.served()
        served.rename(served.with_name("moved"))
        result = self.train_day_2(f"run.duration={end}ba")
        self.assert_says(result, "the parent that this run started from is gone", "resuming at step")
        verdict = self.verdict(killed)
        self.assertEqual([verdict["verdict"], verdict["parent"]], ["inconclusive", parent])
        lineage = harness.document(harness.latest(killed) / "lineage.json")
        self.assertEqual(lineage["parent"], parent)
        self.assertEqual(len(lineage["increments"]), 2)
        served.with_name("moved").rename(served)

    def test_crash_between_promotion_and_end(self):
        self.train_day_1()
        self.train_day_2()
        day2, served = self.newest(), self.served()
        verdict = self.verdict(day2)
        harness.cut_off_behind(day2, "checkpoint")
        self.train_day_2()
        self.assertEqual(self.newest(), day2)
        self.assertEqual(self.served(), served)
        self.assertEqual(self.verdict(day2), verdict)

    def test_increment_that_lacks_a_class(self):
        self.train_day_1()
        kept = DAYS[1]["y"] != 0   # without the first class, all others would be numbered anew
        self.write_data({name: tensor[kept] for name, tensor in DAYS[1].items()}, "day2.safetensors")
        only_day_2 = 'data.increments=["day2.safetensors"]'
        result = self.run_well(self.job, only_day_2, workers=2)
        self.assertRegex(result.text, r'W .*increment 1 .*day2.safetensors.* has no sample of class "0"')
        self.assert_says(result, "at step 0 the child scores as its parent does")
        self.assertEqual(harness.document(self.served() / "model.json")["classes"], ["0", "1", "2", "3"])
        self.assertEqual(load_file(self.served() / "model.safetensors")["layers.2.weight"].shape, (4, 16))

    # Weights from elsewhere.

    def initial(self, **changes):
        """Writes weights as another program would; None takes a tensor away."""
        random = numpy.random.default_rng(0)
        tensors = {name: random.normal(0, 0.3, shape).astype(numpy.float32) for name, shape in SHAPES.items()}
        tensors |= {name.replace("__", "."): tensor for name, tensor in changes.items()}
        save_file({name: tensor for name, tensor in tensors.items() if tensor is not None},
                  self.folder / "initial.safetensors")
        return tensors

    def start_from_initial(self, *settings, code=0):
        """Trains nothing, so that what was loaded is what is saved."""
        return self.run_well(self.job, "warm_start.from=initial.safetensors", "run.directory=run",
                             "schedule.base_lr=1e-30", *settings, workers=2, code=code)

    def test_weights_of_another_program(self):
        tensors = self.initial()
        self.start_from_initial()
        saved = harness.weights(self.folder / "run")
        self.assertEqual(set(saved), set(tensors))
        for name, tensor in tensors.items():
            numpy.testing.assert_array_equal(saved[name], tensor, name)
        event = harness.events(self.folder / "run", "warm_start")[0]
        self.assertEqual([event["loaded"], event["fresh"]], [1, 0])

    def test_missing_tensor(self):
        tensors = self.initial(layers__0__bias=None, extra=numpy.zeros(3, numpy.float32))
        total = sum(numpy.prod(shape) for shape in SHAPES.values())
        result = self.start_from_initial()   # 24 of 700 parameters: within the floor of 95 %
        self.assert_says(result, "fresh: layers.0.bias", "unused: extra")
        event = harness.events(self.folder / "run", "warm_start")[0]
        self.assertAlmostEqual(event["loaded"], 1 - 24 / total, places=12)
        self.assertAlmostEqual(event["fresh"], 24 / total, places=12)
        self.assertAlmostEqual(event["unused"], 3 / (total - 24 + 3), places=12)   # of the file's elements
        saved = harness.weights(self.folder / "run")
        self.assertTrue(numpy.any(saved["layers.0.bias"]))   # a fresh one is drawn, not zero
        numpy.testing.assert_array_equal(saved["layers.0.weight"], tensors["layers.0.weight"])

    def test_floor(self):
        self.initial(layers__0__bias=None)
        result = self.start_from_initial("warm_start.min_loaded=0.99", code=78)
        self.assert_says(result, "too little would be loaded", "layers.0.bias", "initial.safetensors", "min_loaded",
                         "hint:")
        self.assertEqual(harness.steps(self.folder / "run"), {})

    def test_wrong_shape(self):
        self.initial(layers__1__weight=numpy.zeros((16, 25), numpy.float32))
        result = self.start_from_initial(code=78)
        self.assert_says(result, "layers.1.weight", "[16, 25]", "[16, 24]", "initial.safetensors", "hint:")

    def test_wrong_type(self):
        self.initial(layers__1__weight=numpy.zeros((16, 24), numpy.int64))
        result = self.start_from_initial(code=78)
        self.assert_says(result, "layers.1.weight", "I64", "F32", "initial.safetensors", "hint:")

    def test_refused_start_can_be_corrected(self):
        """A run that never took a step does not hold its directory."""
        self.initial(layers__0__bias=None)
        self.start_from_initial("warm_start.min_loaded=0.99", code=78)
        self.start_from_initial("warm_start.min_loaded=0.9")

    def test_parent_by_path(self):
        """A line, a run, a checkpoint and a folder of weights can all be named."""
        day1 = self.train_day_1()
        served = self.served()
        for number, source in enumerate((self.line, day1, served)):
            directory = self.folder / f"child-{number}"
            self.run_well(self.job, f"warm_start.from={source}", f"run.directory={directory}", "run.duration=1ep")
            self.assertEqual(harness.events(directory, "warm_start")[0]["parent"], self.digest(served))


class Components(Line):
    """What of the parent is taken, and what is not."""

    def start(self, parent, *settings, code=0, **kwargs):
        """A run of its own, outside the line, that starts from `parent` and takes one step of no length."""
        directory = self.folder / f"child-{len(list(self.folder.glob('child-*')))}"
        result = self.run_well(self.job, TWO_DAYS, f"warm_start.from={parent}", f"run.directory={directory}",
                               "run.duration=1ba", "schedule.warmup=1ba", "run.log_every=1ba", *settings, code=code, **kwargs)
        return result, directory

    def renamed(self, served, change):
        """A safetensors file with the served weights under other names or of other types."""
        path = self.folder / "other.safetensors"
        save_file(dict(change(name, tensor) for name, tensor in load_file(served / "model.safetensors").items()), path)
        return path

    def setUp(self):
        super().setUp()
        self.train_day_1()
        self.weights = load_file(self.served() / "model.safetensors")

    def assert_like_parent(self, directory, names):
        """A first step at rate zero moves nothing: what was loaded is there as it was."""
        there = harness.weights(directory)
        for name, tensor in self.weights.items():
            self.assertEqual((there[name] == tensor).all(), name in names, name)

    def test_renamed(self):
        other = self.renamed(self.served(), lambda name, tensor: ("backbone." + name, tensor))
        self.start(other, code=78)
        result, directory = self.start(other, 'warm_start.rename=[["^backbone\\\\.", ""]]', workers=2)
        self.assert_says(result, "renamed: backbone.layers.0.bias as layers.0.bias")
        self.assert_like_parent(directory, SHAPES)
        event = harness.events(directory, "warm_start")[0]
        self.assertEqual([event["loaded"], event["renamed"], event["resized"]], [1, 1, 0])

    def test_halves(self):
        other = self.renamed(self.served(), lambda name, tensor: (name, tensor.astype(numpy.float16)))
        result, directory = self.start(other)
        self.assert_says(result, "converted: ")
        there = harness.weights(directory)
        for name, tensor in self.weights.items():
            self.assertTrue((there[name] == tensor.astype(numpy.float16).astype(numpy.float32)).all())

    def test_included_and_excluded(self):
        body = [name for name in SHAPES if not name.startswith("layers.2.")]
        for settings in ('warm_start.exclude=["layers.2.*"]',), ('warm_start.include=["layers.0.*", "layers.1.*"]',):
            _, directory = self.start(self.served(), *settings, "warm_start.min_loaded=0.5", workers=2)
            self.assert_like_parent(directory, body)
        result, _ = self.start(self.served(), 'warm_start.exclude=["layer.2.*"]', code=78)
        self.assert_says(result, "'layer.2.*' matches no tensor of the model")

    def test_shards(self):
        """As Hugging Face cuts large models; the model card says what they were made from."""
        folder = self.folder / "hub"
        folder.mkdir()
        names = sorted(SHAPES)
        parts = {"model-00001-of-00002.safetensors": names[:3], "model-00002-of-00002.safetensors": names[3:]}
        for file, some in parts.items():
            save_file({name: self.weights[name] for name in some}, folder / file)
        (folder / "model.safetensors.index.json").write_text(json.dumps(
            {"metadata": {"total_size": 1}, "weight_map": {name: file for file, some in parts.items() for name in some}}))
        (folder / "README.md").write_text("---\nlicense: mit\nbase_model: someone/something\n---\n# A model\n")
        _, directory = self.start(folder, workers=2)
        self.assert_like_parent(directory, SHAPES)
        origin = harness.document(harness.latest(directory) / "lineage.json")["origin"]
        self.assertEqual(origin["base_model"], "someone/something")
        self.assertEqual(set(origin["files"]), set(parts))
        grandchild = self.start(directory)[1]
        self.assertEqual(harness.document(harness.latest(grandchild) / "lineage.json")["origin"], origin)

    def test_pickles_are_refused(self):
        folder = self.folder / "hub"
        folder.mkdir()
        (folder / "pytorch_model.bin").write_bytes(b"PK\x03\x04 and so on")
        for path in folder, folder / "pytorch_model.bin":
            result, _ = self.start(path, code=78)
            self.assert_says(result, "safetensors.torch.save_file")
        (folder / "pytorch_model.bin").rename(folder / "pytorch_model-00001-of-00001.bin")
        (folder / "pytorch_model.bin.index.json").write_text("{}")
        self.assert_says(self.start(folder, code=78)[0], "pytorch_model-*.bin")

    def test_moments(self):
        """One more step of a run, and the first of a child with its moments, are the same step."""
        constant = "schedule.decay=constant", "data.shuffle=false", "optimizer.momentum=0.9", "schedule.warmup=0ba"
        parent, longer, child, fresh = (self.folder / name for name in ("p", "l", "c", "f"))
        one_day = "data.increments=[\"day1.safetensors\"]", "evaluation.test=0", "evaluation.validation=0"
        epoch = 19   # steps of 600 samples in 32s
        for workers, directory, settings in (
                (2, parent, ("warm_start.strategy=cold", f"run.duration={epoch}ba")),
                (2, longer, ("warm_start.strategy=cold", f"run.duration={epoch + 3}ba")),
                (3, child, (f"warm_start.from={parent}", "warm_start.load.optimizer=load", "run.duration=3ba")),
                (2, fresh, (f"warm_start.from={parent}", "run.duration=3ba"))):
            self.run_well(self.job, *constant, *one_day, f"run.directory={directory}", f"warm_start.from={self.served()}",
                          *settings, workers=workers)
        longer, child, fresh = (harness.weights(directory)["layers.0.weight"] for directory in (longer, child, fresh))
        self.assertLess(abs(longer - child).max(), 1e-6)
        self.assertGreater(abs(longer - fresh).max(), 1e-4)

    def test_moments_of_bare_weights_are_refused(self):
        result, _ = self.start(self.served() / "model.safetensors", "warm_start.load.optimizer=load", code=78)
        self.assert_says(result, "there are no moments beside bare weights")

    def test_moments_need_their_weights(self):
        result, _ = self.start(self.served(), "warm_start.load.optimizer=load", "warm_start.load.weights=reset",
                               "warm_start.load.batch_norm=reset", code=78)
        self.assert_says(result, "warm_start.load.optimizer takes from the parent without the weights")

    def test_each_node_reads(self):
        one, other = (self.start(self.served(), f"warm_start.read={reader}", workers=2)[1] for reader in ("rank0", "each-node"))
        self.assertEqual(harness.model_bytes(one), harness.model_bytes(other))
        heard = [[event["metrics"] for event in harness.events(directory, "eval") if event["model"] == "parent"]
                 for directory in (one, other)]
        self.assertEqual(heard[0], heard[1])
        self.assertEqual(len(heard[0]), 3)

    def test_a_head_of_another_size_is_left_out(self):
        """Weights from elsewhere, of which nothing but the body fits."""
        other = self.renamed(self.served(), lambda name, tensor: (name, tensor if "2" not in name else
                                                                  numpy.ones((100, *tensor.shape[1:]), numpy.float32)))
        self.start(other, code=78)
        _, directory = self.start(other, 'warm_start.exclude=["layers.2.*"]', "warm_start.min_loaded=0.5", workers=2)
        self.assert_like_parent(directory, [name for name in SHAPES if "2" not in name])


class GrowingHead(Line):
    """Day 2 brings a class that day 1 did not have."""

    def setUp(self):
        super().setUp()
        more = harness.clusters(600, classes=5, spread=0.5, seed=2, centres_seed=2)
        self.write_data(more, "day2.safetensors")

    def test_old_rows_stay(self):
        self.train_day_1()
        old = load_file(self.served() / "model.safetensors")
        result = self.train_day_2("run.duration=1ba", "schedule.warmup=1ba")   # at rate zero
        self.assert_says(result, "resized: layers.2.bias and layers.2.weight")
        new = harness.weights(self.newest())
        self.assertEqual(new["layers.2.weight"].shape, (5, 16))
        self.assertTrue((new["layers.2.weight"][:4] == old["layers.2.weight"]).all())
        self.assertTrue((new["layers.2.bias"][:4] == old["layers.2.bias"]).all())
        self.assertGreater(abs(new["layers.2.weight"][4]).max(), 0)
        self.assertTrue((new["layers.0.weight"] == old["layers.0.weight"]).all())

    def test_a_child_unfreezes_what_its_parent_froze(self):
        """Of what the parent did not train it has no moments: the child starts them at zero."""
        frozen = 'optimizer={momentum=0.9, groups=[{match=["layers.0.*"], freeze=true}]}'
        self.train_day_1(frozen)
        old = harness.moments(self.served())
        self.assertFalse([name for name in old if name.startswith("layers.0.")])
        self.run_well(self.job, TWO_DAYS, "warm_start.load.optimizer=load", workers=2)
        self.assertTrue([name for name in harness.moments(self.newest() / "checkpoints" / "latest")
                         if name.startswith("layers.0.")])

    def test_moments_of_old_rows_stay(self):
        """After one step from the same weights, with the parent's moments and without, they differ by 0.9 of the parent's in
        the rows that it had, and not at all in the new one."""
        self.train_day_1()
        old = harness.moments(self.served())
        one_step = "run.duration=1ba", "schedule.warmup=1ba", "evaluation.validation=0", "evaluation.test=0"
        after = {}
        for name, workers in ("load", 3), ("reset", 2):
            directory = self.folder / name
            self.run_well(self.job, TWO_DAYS, *one_step, f"warm_start.from={self.line}", f"run.directory={directory}",
                          f"warm_start.load.optimizer={name}", workers=workers)
            after[name] = harness.moments(harness.latest(directory))
        for name, moment in old.items():
            carried = after["load"][name] - after["reset"][name]
            expected = numpy.zeros_like(carried)
            expected[:len(moment)] = 0.9 * moment   # in order; the new class is the last
            numpy.testing.assert_allclose(carried, expected, atol=2e-6)
        self.assertGreater(max(abs(moment).max() for moment in old.values()), 1e-3)

    def test_the_verdict_counts_the_new_class_against_the_parent(self):
        self.train_day_1()
        self.train_day_2()
        verdict = self.verdict(self.newest())
        self.assertEqual(verdict["verdict"], "promoted")
        self.assertGreater(verdict["new"]["child"], 0.9)
        self.assertLess(verdict["new"]["parent"], 0.85)   # a fifth of the samples is of the class it does not know
        self.assertEqual(harness.document(self.served() / "model.json")["classes"], ["0", "1", "2", "3", "4"])


if __name__ == "__main__":
    unittest.main()
