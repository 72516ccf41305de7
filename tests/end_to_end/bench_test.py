# SPDX-License-Identifier: Apache-2.0
"""`rekindle bench`: what scripts read of it, and that it leaves nothing behind."""

import json
import signal
import subprocess
import unittest

import harness


def bench(*arguments, cwd=None):
    """Runs a measurement; its code, what it printed and what it said on standard error."""
    done = subprocess.run([str(word) for word in (harness.LAUNCHER, "bench", *arguments, "--worker", harness.WORKER)],
                          cwd=cwd, capture_output=True, text=True, timeout=harness.PATIENCE, check=False)
    return done.returncode, done.stdout, done.stderr


class AllReduce(unittest.TestCase):
    def test_json(self):
        code, out, err = bench("allreduce", "-n", 2, "--bytes", "4096,65536", "--seconds", 0.01, "--json")
        self.assertEqual(code, 0, err)
        rows = json.loads(out)
        self.assertEqual([(row["op"], row["bytes"]) for row in rows],
                         [("allreduce", 4096), ("memcpy", 4096), ("allreduce", 65536), ("memcpy", 65536)])
        for row in rows:
            self.assertEqual(set(row), {"op", "dtype", "bytes", "ms", "gb_per_s"})
            self.assertEqual(row["dtype"], "float32")
            self.assertAlmostEqual(row["gb_per_s"] * row["ms"] * 1e6 / row["bytes"], 1)

    def test_other_dtype_and_worlds(self):
        for world, dtype in ((1, "float64"), (3, "int64")):
            code, out, err = bench("allreduce", "-n", world, "--bytes", 800, "--dtype", dtype, "--seconds", 0.01, "--json")
            self.assertEqual(code, 0, err)
            self.assertEqual([row["dtype"] for row in json.loads(out)], [dtype, dtype])

    def test_table(self):
        code, out, err = bench("allreduce", "-n", 2, "--bytes", "65536,1048576", "--seconds", 0.01)
        self.assertEqual(code, 0, err)
        self.assertIn("of the limit", out)
        self.assertRegex(out, r"(?m)^ +64 KiB .* %$")
        self.assertRegex(out, r"(?m)^ +1 MiB .* %$")

    def test_bytes_that_hold_no_whole_number_of_elements(self):
        code, out, err = bench("allreduce", "-n", 2, "--bytes", "4097")
        self.assertEqual((code, out), (64, ""))
        self.assertIn("4097 bytes", err)
        self.assertEqual(err.count("4097 bytes"), 1)   # one speaks for all

    def test_ctrl_c_ends_it_at_once(self):
        command = [harness.LAUNCHER, "bench", "allreduce", "-n", 2, "--bytes", 26214400, "--seconds", 100,
                   "--worker", harness.WORKER]
        with harness.Live(command) as live:
            live.wait_for(lambda: len(live.rank_processes()) == 2)
            live.signal(signal.SIGINT)
            result = live.result()
        self.assertEqual(result.code, 1, result.text)
        self.assertIn("ended at once, as asked", result.last_line)
        self.assertNotIn("checkpoint", result.text)   # there is none to wait for


class Step(harness.Case):
    def setUp(self):
        super().setUp()
        self.write_data(harness.clusters(300))
        self.job = self.write_job("""
            [data]
            path = "data.safetensors"
            [batch]
            global = 32
            [schedule]
            base_lr = 0.1
            [evaluation]
            test = 0.2
            every = "1ba"
            [checkpoint]
            every = "1ba"
            [run]
            directory = "run"
            duration = "5ba"
            """)

    def test_json_and_nothing_is_written(self):
        before = sorted(self.folder.iterdir())
        code, out, err = bench("step", self.job, "-n", 2, "--steps", 20, "--json", "model.hidden=[16]", cwd=self.folder)
        self.assertEqual(code, 0, err)
        result = json.loads(out)
        self.assertEqual(set(result), {"workers", "ms_per_step", "samples_per_s", "first_step_s"})
        self.assertEqual(result["workers"], 2)
        # Full batches of 32 and a smaller last one in each epoch.
        samples = result["samples_per_s"] * result["ms_per_step"] / 1e3
        self.assertTrue(16 < samples <= 32, samples)
        # MPI alone needs more than this to start: it is counted from the launch.
        self.assertGreater(result["first_step_s"], 0.02)
        self.assertEqual(sorted(self.folder.iterdir()), before)

    def test_line_for_people(self):
        code, out, err = bench("step", self.job, "--steps", 5)
        self.assertEqual(code, 0, err)
        self.assertRegex(out, r"^1 worker: .* ms a step, .* samples/s; the first step ended .* s after the start$")

    def test_bad_input(self):
        for arguments, code, words in (((self.folder / "none.toml",), 78, "no such file"),
                                       ((self.job, "batch.globl=3"), 78, "did you mean 'global'"),
                                       ((self.job, "data.path=none.safetensors"), 78, "no such file"),
                                       ((self.job, "--steps", "none"), 64, "number of steps")):
            with self.subTest(arguments=arguments):
                found, out, err = bench("step", *arguments)
                self.assertEqual((found, out), (code, ""), err)
                self.assertIn(words, err)


if __name__ == "__main__":
    unittest.main()
