# SPDX-License-Identifier: Apache-2.0
"""The rules of the house that a compiler does not know: who may include whom, and what every file carries."""
import pathlib
import re
import subprocess
import sys
import unittest

ROOT = pathlib.Path(sys.argv.pop(1))
SIBLINGS = {"comm", "schedules", "optimizers", "checkpoints", "models", "data"}
ROOMS = SIBLINGS | {"core", "warmstart", "job", "launcher", "worker"}
MAY_INCLUDE = {room: {"core"} for room in SIBLINGS | {"core"}} | {
    "warmstart": {"core", "comm", "checkpoints"},
    "job": {"core"},   # and every room's options.h
    "launcher": {"core", "job", "checkpoints"},
    "worker": ROOMS - {"launcher"},
}
TORCH = re.compile(r"^(torch|ATen|c10)/")
TORCH_FREE = {"core", "checkpoints", "job", "launcher", "schedules"}


def sources(*suffixes):
    for room in sorted(ROOMS):
        yield from (p for p in sorted((ROOT / room).rglob("*")) if p.suffix in suffixes)


def includes(path):
    for number, line in enumerate(path.read_text().splitlines(), 1):
        found = re.match(r'#include ["<]([^">]+)[">]', line)
        if found:
            yield number, found[1]


class Rules(unittest.TestCase):
    def test_rooms_include_only_whom_they_may(self):
        wrong = []
        for path in sources(".h", ".cpp"):
            room = path.relative_to(ROOT).parts[0]
            for number, name in includes(path):
                other = name.split("/")[0]
                if other not in ROOMS or other == room or other in MAY_INCLUDE[room]:
                    continue
                if room == "job" and name.endswith("/options.h"):
                    continue
                wrong.append(f"{path.relative_to(ROOT)}:{number} includes {name}")
        self.assertEqual(wrong, [])

    def test_headers_form_no_cycle(self):
        graph = {str(p.relative_to(ROOT)): [n for _, n in includes(p)] for p in sources(".h")}
        done, path = set(), []

        def visit(name):
            self.assertNotIn(name, path, "a cycle of includes")
            if name in done or name not in graph:
                return
            path.append(name)
            for other in graph[name]:
                visit(other)
            done.add(path.pop())

        for name in graph:
            visit(name)

    def test_torch_and_mpi_stay_where_they_belong(self):
        wrong = []
        for path in sources(".h", ".cpp"):
            name = str(path.relative_to(ROOT))
            for number, include in includes(path):
                free = name.split("/")[0] in TORCH_FREE or path.name == "options.h"
                if free and TORCH.match(include) and name != "core/batch.h":
                    wrong.append(f"{name}:{number} includes {include}")
                if include == "torch/torch.h":
                    wrong.append(f"{name}:{number} includes all of torch, which takes 25 s")
                if include == "mpi.h" and not name.startswith("comm/mpi_"):
                    wrong.append(f"{name}:{number} calls MPI")
                if include.startswith("toml++") and not name.startswith("job/"):
                    wrong.append(f"{name}:{number} includes {include}")
        self.assertEqual(wrong, [])

    def test_every_source_is_in_a_list(self):
        missing = []
        for path in sources(".cpp"):
            if path.name not in (path.parent / "CMakeLists.txt").read_text():
                missing.append(str(path.relative_to(ROOT)))
        self.assertEqual(missing, [])

    def test_every_mutation_applies(self):
        """scripts/mutate.sh is not run every time; its patches must not go stale meanwhile."""
        stale = [path.stem for path in sorted((ROOT / "tests/mutations").glob("*.patch"))
                 if subprocess.run(["patch", "-d", ROOT, "-p1", "--fuzz=0", "--batch", "--silent", "--dry-run", "--forward",
                                    "-i", path], capture_output=True).returncode != 0]
        self.assertEqual(stale, [])

    def test_every_file_says_its_licence(self):
        missing = []
        folders = [ROOT / room for room in ROOMS] + [ROOT / f for f in ("tests", "scripts", "cmake", "examples", "benchmarks")]
        for folder in folders:
            for path in folder.rglob("*"):
                if path.suffix in {".h", ".cpp", ".py", ".sh", ".cmake", ".toml"} or path.name == "CMakeLists.txt":
                    if "SPDX-License-Identifier: Apache-2.0" not in "\n".join(path.read_text().splitlines()[:3]):
                        missing.append(str(path.relative_to(ROOT)))
        self.assertEqual(missing, [])


if __name__ == "__main__":
    unittest.main()
