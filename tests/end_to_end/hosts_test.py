# SPDX-License-Identifier: Apache-2.0
"""Several hosts, as network namespaces with names of their own: the result is that of one host."""

import contextlib
import os
import shutil
import subprocess
import unittest

import numpy

import harness

# What Open MPI calls in place of ssh: enters the namespace that has the host's name, and takes that name.
AGENT = """#!/bin/sh
host=$1; shift
exec ip netns exec "$host" unshare --uts sh -c 'hostname "$0"; exec sh -c "$1"' "$host" "$*"
"""


class Hosts:
    """Hosts that reach each other through a switch, where mpirun runs."""

    def __init__(self, folder, count):
        self._name = f"rekindle-{os.getpid()}"
        self.names = [f"{self._name}-{i}" for i in range(count)]
        self.network = "10.213.87.0/24"  # nobody else sees it
        self._switch = f"{self._name}-switch"
        self.agent = folder / "agent"
        self.agent.write_text(AGENT)
        self.agent.chmod(0o755)

    def __enter__(self):
        try:
            for name in [self._switch, *self.names]:
                self._ip("netns", "add", name)
                self._ip("-n", name, "link", "set", "lo", "up")
            self._ip("-n", self._switch, "link", "add", "bridge", "type", "bridge")
            self._ip("-n", self._switch, "address", "add", "10.213.87.1/24", "dev", "bridge")
            self._ip("-n", self._switch, "link", "set", "bridge", "up")
            for i, name in enumerate(self.names):
                self._ip("-n", self._switch, "link", "add", f"to{i}", "type", "veth", "peer", "name", "eth0", "netns", name)
                self._ip("-n", self._switch, "link", "set", f"to{i}", "master", "bridge", "up")
                self._ip("-n", name, "address", "add", f"10.213.87.{i + 2}/24", "dev", "eth0")
                self._ip("-n", name, "link", "set", "eth0", "up")
        except (OSError, subprocess.CalledProcessError) as error:
            self.__exit__()
            said = getattr(error, "stderr", b"") or b""
            raise unittest.SkipTest(f"no network namespaces here: {error} {said.decode().strip()}") from error
        return self

    def __exit__(self, *_):
        for name in [self._switch, *self.names]:
            with contextlib.suppress(OSError):
                subprocess.run(["ip", "netns", "delete", name], capture_output=True)

    def sent(self):
        """Bytes that each host has sent so far."""
        return [int(subprocess.run(["ip", "netns", "exec", name, "cat", "/sys/class/net/eth0/statistics/tx_bytes"],
                                   check=True, capture_output=True).stdout) for name in self.names]

    def mpirun(self, job, *arguments, ranks):
        """`ranks`: how many run on each host."""
        hosts = ",".join(f"{name}:{count}" for name, count in zip(self.names, ranks))
        settings = {"plm": "rsh", "plm_rsh_agent": self.agent, "plm_rsh_no_tree_spawn": 1, "pml": "ob1",
                    "btl": "self,vader,tcp", "oob_tcp_if_include": self.network, "btl_tcp_if_include": self.network}
        return ["ip", "netns", "exec", self._switch, "mpirun", "-n", sum(ranks), "--host", hosts, "--bind-to", "none",
                *(word for name, value in settings.items() for word in ("--mca", name, value)),
                # The environment of the agent's shell is not this one.
                *(word for name in ("OMPI_ALLOW_RUN_AS_ROOT", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "OMP_NUM_THREADS")
                  if name in os.environ for word in ("-x", name)),
                harness.WORKER, job, *arguments]

    @staticmethod
    def _ip(*words):
        subprocess.run(["ip", *words], check=True, capture_output=True)


class SeveralHosts(harness.Case):
    STEPS = 5

    def setUp(self):
        super().setUp()
        if shutil.which("ip") is None:
            self.skipTest("no program 'ip' here")
        self.write_data(harness.clusters(256, classes=10, features=784))
        self.job = self.write_job(f"""
            [model]
            hidden = [1024, 1024]
            [data]
            path = "data.safetensors"
            [batch]
            global = 64
            [optimizer]
            momentum = 0.9
            max_grad_norm = 1.0
            [schedule]
            base_lr = 0.05
            [run]
            line = "unused"
            duration = "{self.STEPS}ba"
            deadline = "60sec"
            log_every = "1ba"
            """)

    def on_hosts(self, hosts, name, *settings, ranks):
        directory = self.folder / name
        before = hosts.sent()
        result = harness.run(hosts.mpirun(self.job, f"run.directory={directory}", *settings, ranks=ranks))
        self.assertEqual(result.code, 0, result.text)
        model = (harness.latest(directory) / "model.safetensors").stat().st_size
        for host, (then, now) in enumerate(zip(before, hosts.sent())):
            # Its part of every step's gradient went to the other host.
            self.assertGreater(now - then, self.STEPS * model / 2, f"host {host} kept its gradients")
        return directory

    def on_one(self, name, *settings, workers):
        directory = self.folder / name
        self.run_well(self.job, f"run.directory={directory}", *settings, workers=workers)
        return directory

    def test_as_on_one_host(self):
        with Hosts(self.folder, 2) as hosts:
            alone = harness.weights(self.on_one("one", workers=4))
            for ranks in ((2, 2), (3, 1)):
                for name, tensor in harness.weights(self.on_hosts(hosts, f"fast-{ranks}", ranks=ranks)).items():
                    with self.subTest(ranks=ranks, tensor=name):
                        self.assertLess(numpy.abs(tensor - alone[name]).max(), 1e-6 * numpy.abs(alone[name]).max())

    def test_the_same_bits(self):
        any_world = "run.reproducible=any-world"
        with Hosts(self.folder, 2) as hosts:
            alone = harness.model_bytes(self.on_one("one", any_world, workers=1))
            for ranks in ((2, 2), (3, 1), (1, 1)):
                with self.subTest(ranks=ranks):
                    there = harness.model_bytes(self.on_hosts(hosts, f"any-{ranks}", any_world, ranks=ranks))
                    self.assertTrue(there == alone, "weights differ")


if __name__ == "__main__":
    unittest.main()
