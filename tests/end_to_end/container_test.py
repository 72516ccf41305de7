# SPDX-License-Identifier: Apache-2.0
"""A /dev/shm as small as containers have it."""

import subprocess
import unittest

import harness

ENTER = 'mount -t tmpfs -o size="$0" tmpfs /dev/shm && exec "$@"'


class SmallSharedMemory(harness.Case):
    def test_it_runs(self):
        probe = subprocess.run(["unshare", "--mount", "sh", "-c", ENTER, "1m", "true"], capture_output=True)
        if probe.returncode != 0:
            self.skipTest(f"no mount namespaces here: {probe.stderr.decode().strip()}")
        # 8 MB of parameters: more than there is room for, also of a rank's gradients alone.
        self.write_data(harness.clusters(64, features=784))
        job = self.write_job("""
            [model]
            hidden = [1024, 1024]
            [data]
            path = "data.safetensors"
            [batch]
            global = 32
            [schedule]
            base_lr = 0.05
            [run]
            line = "unused"
            duration = "4ba"
            """)
        models = []
        for name, size in (("large", None), ("64", "64m"), ("1", "1m")):
            directory = self.folder / name
            command = harness.launch(job, f"run.directory={directory}", workers=2)
            if size:
                command = ["unshare", "--mount", "sh", "-c", ENTER, size, *command]
            result = harness.run(command)
            self.assertEqual(result.code, 0, result.text)
            self.assertNotIn("share no memory", result.text)
            models.append(harness.model_bytes(directory))
        self.assertEqual(models[1:], models[:1] * 2)


if __name__ == "__main__":
    unittest.main()
