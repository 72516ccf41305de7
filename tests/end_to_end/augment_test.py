# SPDX-License-Identifier: Apache-2.0
"""data.augment: training sees changed images, evaluation never does, and the number of workers makes no difference."""

import unittest

import numpy

import harness

BOTH = 'data.augment=["crop", "flip"]'


class Augment(harness.Case):
    def setUp(self):
        super().setUp()
        random = numpy.random.default_rng(0)
        self.write_data({"x": random.normal(size=(300, 3, 8, 8)).astype(numpy.float32),
                         "y": random.integers(0, 4, 300)})
        self.job = self.write_job("""
            [model]
            hidden = [16]
            [data]
            path = "data.safetensors"
            [batch]
            global = 32
            [optimizer]
            momentum = 0.9
            [schedule]
            base_lr = 0.05
            [evaluation]
            validation = 0.2
            test = 0.2
            every = "5ba"
            [verdict]
            [run]
            directory = "run"
            duration = "20ba"
            log_every = "1ba"
            """)

    def train(self, name, *settings, workers=1):
        self.run_well(self.job, f"run.directory={self.folder / name}", *settings, workers=workers)
        return self.folder / name

    def test_evaluation_sees_images_as_they_are(self):
        still = "schedule.base_lr=1e-30"   # below what a weight can show, so all runs have one model
        plain, changed = self.train("plain", still), self.train("changed", still, BOTH)
        self.assertEqual(harness.model_bytes(plain), harness.model_bytes(changed))
        scores = [[(event["set"], event["step"], event["metrics"]) for event in harness.events(directory, "eval")]
                  for directory in (plain, changed)]
        self.assertEqual(scores[0], scores[1])
        self.assertGreater(len(scores[0]), 5)
        losses = [[step["loss"] for step in harness.steps(directory).values()] for directory in (plain, changed)]
        self.assertTrue(all(a != b for a, b in zip(*losses, strict=True)), losses)

    def test_each_change_for_itself(self):
        models = {harness.model_bytes(self.train(f"run{i}", f"data.augment={augment}"))
                  for i, augment in enumerate(("[]", '["crop"]', '["flip"]', '["crop", "flip"]'))}
        self.assertEqual(len(models), 4)

    def test_any_number_of_workers(self):
        models = [harness.model_bytes(self.train(f"on{n}", BOTH, "run.reproducible=any-world", workers=n))
                  for n in (1, 2, 3)]
        self.assertEqual(models[0], models[1])
        self.assertEqual(models[0], models[2])

    def test_samples_that_are_no_images(self):
        self.write_data(harness.clusters(100, features=12))
        result = self.run_well(self.job, BOTH, workers=2, code=78)
        self.assert_says(result, "samples of shape [12] are no images", "data.augment")
        self.assertFalse((self.folder / "run").exists())


if __name__ == "__main__":
    unittest.main()
