# SPDX-License-Identifier: Apache-2.0
"""What scripts/soak.sh does for as long as one likes: `kill N [SEED]`, `flip N [SEED]`. Some rounds of each are in the tests."""

import random
import sys
import time
import unittest

import harness

JOB = """
    [model]
    hidden = [64, 32]
    dropout = 0.2
    batch_norm = true
    [data]
    path = "data.safetensors"
    [batch]
    global = 48
    [optimizer]
    name = "adamw"
    max_grad_norm = 1.0
    [schedule]
    base_lr = 0.002
    warmup = "20ba"
    [evaluation]
    every = "25ba"
    validation = 0.1
    [checkpoint]
    every = "3ba"
    keep = 3
    [run]
    directory = "run"
    duration = "100000000ba"
    reproducible = "any-world"
    log_every = "10ba"
    """
WORLDS = 1, 2, 3, 4


class Soak(harness.Case):
    def prepare(self, seed):
        self.random = random.Random(seed)
        print(f"seed {seed}", flush=True)
        self.write_data(harness.clusters(3000, features=32))
        self.job = self.write_job(JOB)
        self.directory = self.folder / "run"

    def saved(self):
        """The step of the newest checkpoint, or -1."""
        try:
            return int(harness.latest(self.directory).name.removeprefix("step-"))
        except OSError:
            return -1

    def kill_once(self):
        """Starts or resumes the run, and kills one rank at a moment that nobody chose. Returns how far it had come."""
        before = self.saved()
        workers = self.random.choice(WORLDS)
        with harness.Live(harness.launch(self.job, workers=workers)) as live:
            live.wait_for(lambda: self.saved() > before)   # so that there is progress, however fast it is killed
            time.sleep(self.random.random() * 0.2)
            live.kill_rank(self.random.randrange(workers))
            result = live.result()
        self.assertEqual(result.code, 1, result.text)
        self.assertEqual(harness.half_written(self.directory), [], result.text)
        return self.saved()

    def kill(self, rounds, seed):
        self.prepare(seed)
        for number in range(rounds):
            at = self.kill_once()
            if number % 20 == 19:
                print(f"killed {number + 1} times, at step {at}", flush=True)
        end = at + 5
        ended = f"run.duration={end}ba"
        self.run_well(self.job, ended, workers=self.random.choice(WORLDS))
        alone = self.folder / "alone"
        self.run_well(self.job, ended, f"run.directory={alone}", "checkpoint.every=1h")
        self.assertEqual(harness.model_bytes(self.directory), harness.model_bytes(alone))
        print(f"killed {rounds} times; the model is that of a run of {end} steps that was left alone", flush=True)

    def flip(self, rounds, seed):
        self.prepare(seed)
        self.run_well(self.job, "run.duration=60ba", "checkpoint.every=20ba", workers=2)
        checkpoint = harness.latest(self.directory)
        model = harness.model_bytes(self.directory)
        for number in range(rounds):
            file = self.random.choice(sorted(checkpoint.iterdir()))
            content = file.read_bytes()
            at = self.random.randrange(len(content))
            changed = bytearray(content)
            changed[at] ^= 1 << self.random.randrange(8)
            file.write_bytes(changed)
            verified = harness.run([harness.LAUNCHER, "verify", checkpoint])
            self.assertEqual(verified.code, 1, f"byte {at} of {file.name}: {verified.text}")
            if number % 10 == 0:
                harness.cut_off_behind(self.directory, "checkpoint")
                result = self.run_well(self.job, "run.duration=60ba", "checkpoint.every=20ba", workers=2)
                self.assert_says(result, "resuming at step 40", file.name)
                self.assertEqual(harness.model_bytes(self.directory), model)
            else:
                file.write_bytes(content)
        print(f"flipped {rounds} bytes; each was found", flush=True)


class SomeRounds(Soak):
    def test_kill(self):
        self.kill(20, seed=random.randrange(1 << 30))

    def test_flip(self):
        self.flip(30, seed=random.randrange(1 << 30))


def main():
    what, rounds, *seed = sys.argv[1:]
    soak = Soak()
    soak.setUp()
    try:
        getattr(soak, what)(int(rounds), int(seed[0]) if seed else random.randrange(1 << 30))
    finally:
        soak.doCleanups()


if __name__ == "__main__":
    main() if len(sys.argv) > 2 else unittest.main()
