# SPDX-License-Identifier: Apache-2.0
"""How our reduction scales: measured, fitted, checked on points that were not fitted, then asked about clusters.

    benchmarks/scaling.py measure   all-reduces of 2..8 workers on this machine, and on "nodes" that are
                                    network namespaces of it (as root: they are made and removed
                                    again); writes results/scaling.json
    benchmarks/scaling.py report    fits and predicts from that file, simulates with SimGrid; writes
                                    results/scaling.md

Needs the built programs, and for `report` Debian's python3-simgrid, so it runs under the system's /usr/bin/python3.
docs/scaling.md tells what the model is and what it is good for."""

import contextlib
import dataclasses
import json
import os
import pathlib
import shlex
import subprocess
import sys
import tempfile

HERE = pathlib.Path(__file__).resolve().parent
BIN = pathlib.Path(os.environ.get("REKINDLE_BIN", HERE.parent / "build/bin"))
RESULTS = HERE / "results"
KIB, MIB = 1 << 10, 1 << 20
SIZES = [4 * KIB, 64 * KIB, MIB, 4 * MIB, 25 * MIB]
ROUNDS = 3
ON_ONE_NODE = [2, 3, 4, 5, 6, 8]             # workers
CLUSTERS = [(2, 1), (3, 1), (2, 2), (4, 1), (2, 3), (2, 4), (3, 2)]   # nodes, workers on each
FITTED_NODES, FITTED_CLUSTERS = [2, 4], [(2, 1)]     # everything else is predicted

# measure

AGENT = """#!/bin/sh
# What mpirun takes for ssh: HOST COMMAND... runs in the namespace of that name, which believes that it is that host.
host=$1
shift
exec ip netns exec "$host" unshare --uts sh -c 'hostname "$0"; exec sh -c "$1"' "$host" "$*"
"""


@contextlib.contextmanager
def namespaces(count):
    """Network namespaces on one bridge, and the agent by which mpirun gets there."""
    def ip(text, check=True):
        subprocess.run(["ip", *shlex.split(text)], check=check, stderr=None if check else subprocess.DEVNULL)

    hosts = [f"rkscale{i}" for i in range(1, count + 1)]
    with tempfile.TemporaryDirectory() as folder:
        agent = pathlib.Path(folder) / "agent"
        agent.write_text(AGENT)
        agent.chmod(0o755)
        try:
            ip("link add rkscale type bridge")
            ip("addr add 10.99.77.254/24 dev rkscale")
            ip("link set rkscale up")
            for i, host in enumerate(hosts, 1):
                ip(f"netns add {host}")
                ip(f"link add rkscale{i} type veth peer name eth0 netns {host}")
                ip(f"link set rkscale{i} master rkscale up")
                ip(f"-n {host} addr add 10.99.77.{i}/24 dev eth0")
                ip(f"-n {host} link set eth0 up")
                ip(f"-n {host} link set lo up")
            yield hosts, agent
        finally:
            for host in hosts:
                ip(f"netns del {host}", check=False)
            ip("link del rkscale", check=False)


def bench(mpi_options, workers):
    """Milliseconds by size: the median of one run's repetitions."""
    command = ["mpirun", "-n", workers, "--oversubscribe", "--bind-to", "none", "--mca", "pml", "ob1", *mpi_options,
               BIN / "rekindle-worker", "--bench", "allreduce", "--json", "--seconds", "0.2",
               "--bytes", ",".join(map(str, SIZES))]
    environment = dict(os.environ, OMPI_ALLOW_RUN_AS_ROOT="1", OMPI_ALLOW_RUN_AS_ROOT_CONFIRM="1", OMP_NUM_THREADS="1")
    done = subprocess.run([str(word) for word in command], env=environment, capture_output=True, text=True, timeout=300)
    if done.returncode != 0:
        sys.exit(f"{shlex.join(map(str, command))}\n{done.stdout}{done.stderr}")
    rows = json.loads(done.stdout.splitlines()[-1])
    return {row["bytes"]: row["ms"] for row in rows if row["op"] == "allreduce"}


def measure():
    rounds = {}

    def add(nodes, each, times):
        for size, ms in times.items():
            rounds.setdefault((nodes, each, size), []).append(ms)

    with namespaces(max(nodes for nodes, _ in CLUSTERS)) as (hosts, agent):
        for number in range(ROUNDS):
            for workers in ON_ONE_NODE:
                add(1, workers, bench(["--mca", "btl", "self,vader"], workers))
            for nodes, each in CLUSTERS:
                places = ",".join(f"{host}:{each}" for host in hosts[:nodes])
                there = ["--host", places, "--mca", "plm_rsh_agent", agent, "--mca", "btl", "self,vader,tcp",
                         "--mca", "btl_tcp_if_include", "10.99.77.0/24",
                         "--mca", "oob_tcp_if_include", "10.99.77.0/24"]
                add(nodes, each, bench(there, nodes * each))
            print(f"round {number + 1} of {ROUNDS}", file=sys.stderr)
    points = [{"nodes": n, "each": e, "bytes": size, "ms": sorted(round(m, 5) for m in ms)}
              for (n, e, size), ms in sorted(rounds.items())]
    RESULTS.mkdir(exist_ok=True)
    model = next((line.split(":")[1].strip() for line in open("/proc/cpuinfo") if line.startswith("model name")), "")
    lines = ",\n  ".join(json.dumps(point) for point in points)
    (RESULTS / "scaling.json").write_text(
        f'{{"cpu": "{model}", "processors": {os.cpu_count()}, "points": [\n  {lines}]}}\n')

# fit


def solve(rows, values):
    """Least squares by the normal equations, for two or three unknowns."""
    count = len(rows[0])
    a = [[sum(row[i] * row[j] for row in rows) for j in range(count)] + [sum(r[i] * v for r, v in zip(rows, values))]
         for i in range(count)]
    for i in range(count):
        pivot = max(range(i, count), key=lambda r: abs(a[r][i]))
        a[i], a[pivot] = a[pivot], a[i]
        for r in range(count):
            if r != i:
                factor = a[r][i] / a[i][i]
                a[r] = [x - factor * y for x, y in zip(a[r], a[i])]
    return [a[i][count] / a[i][i] for i in range(count)]


def fit(rows, times):
    """The costs whose sums over `rows` come nearest to `times`, by the squares of the logarithms of the ratios: twice
    as much is as wrong as half."""
    weights = times
    for _ in range(30):
        scaled = [[x / w for x in row] for row, w in zip(rows, weights)]
        costs = solve(scaled, [t / w for t, w in zip(times, weights)])
        modelled = [max(sum(x * c for x, c in zip(row, costs)), t / 100) for row, t in zip(rows, times)]
        weights = [(m * t) ** 0.5 for m, t in zip(modelled, times)]
    return costs


class NodeModel:
    """T = alpha * workers / processors + traffic / bandwidth: every worker must be woken, and every byte of every
    worker is read once and written once. Two bandwidths, as what fits the cache is faster."""

    CACHED = 8 * MIB   # of all workers together

    def __init__(self, points, processors):
        self.processors = processors
        rows = [self.terms(p["each"], p["bytes"]) for p in points]
        self.alpha, self.fast, self.slow = fit(rows, [measured(p) for p in points])

    def terms(self, workers, size):
        turns, traffic = workers / self.processors, 2 * workers * size
        return [turns, traffic, 0] if workers * size <= self.CACHED else [turns, 0, traffic]

    def seconds(self, workers, size):
        return sum(a * b for a, b in zip((self.alpha, self.fast, self.slow), self.terms(workers, size)))


def measured(point):
    """Seconds, of the round in the middle."""
    return point["ms"][(len(point["ms"]) - 1) // 2] / 1e3


# simulate: every worker is an actor that does what the code does, in the same order.

STAGING, SHARE = MIB, 4 * KIB   # as in comm/mpi_cluster_communicator.cpp: bytes at once, bytes worth a message


@dataclasses.dataclass
class Costs:
    """Seconds; per byte where it says so."""
    processors: int       # shared by all workers; 0: each worker has its own
    memory: float         # per byte that one processor reads or writes (of a GPU: that goes over NVLink)
    meeting: float        # of the workers of a node
    message: float        # from one node to another, apart from its bytes
    message_byte: float   # of a processor, at either end
    wire_byte: float = 0.0    # of the network, each worker's way out and its way in
    injection: float = 0.0    # of the sender, for each message


def simulate(nodes, each, costs, pattern, size):
    """Simulated seconds, in a process of its own: SimGrid has one engine a process."""
    request = json.dumps([nodes, each, dataclasses.asdict(costs), pattern, size])
    done = subprocess.run([sys.executable, __file__, "simulate", request], capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(done.stdout + done.stderr)
    return float(done.stdout.splitlines()[-1])


class Simulation:
    def __init__(self, nodes, each, costs):
        import simgrid
        self.simgrid, self.nodes, self.each, self.costs = simgrid, nodes, each, costs
        self.engine = simgrid.Engine(["scaling", "--log=root.thres:error", "--cfg=network/model:CM02",
                                      "--cfg=network/TCP-gamma:0", "--cfg=network/crosstraffic:0"])
        zone = simgrid.NetZone.create_star_zone("cluster")
        one_pool = costs.processors > 0
        self.hosts = [zone.create_host(f"host{i}", [1.0]) for i in range(1 if one_pool else nodes * each)]
        for i, host in enumerate(self.hosts):
            host.core_count = max(costs.processors, 1)
            if one_pool:   # bytes cost the processors here; what is left is the time that a message takes
                link = zone.create_link("loop", [1e15]).set_latency(costs.message)
                ways, to = [simgrid.LinkInRoute(link.seal())], host.netpoint
            else:
                link = zone.create_split_duplex_link(f"wire{i}", 1 / costs.wire_byte).set_latency(costs.message / 2)
                ways, to = [simgrid.LinkInRoute(link.seal(), simgrid.LinkInRoute.Direction.UP)], None
            zone.add_route(host.netpoint, to, None, None, ways, True)
            host.seal()
        zone.seal()
        self.barriers = [simgrid.Barrier(each) for _ in range(nodes)]

    def run(self, worker):
        for rank in range(self.nodes * self.each):
            host = self.hosts[rank % len(self.hosts)]
            self.simgrid.Actor.create(f"rank{rank}", host, worker, Worker(self, rank))
        self.engine.run()
        return self.engine.clock


class Worker:
    """What a simulated worker can do."""

    def __init__(self, simulation, rank):
        self.all, self.rank, self.costs = simulation, rank, simulation.costs
        self.nodes, self.each = simulation.nodes, simulation.each
        self.node, self.local = divmod(rank, simulation.each)
        self.namesakes = [node * self.each + self.local for node in range(self.nodes) if node != self.node]

    def compute(self, seconds):
        if seconds > 0:
            self.all.simgrid.this_actor.execute(seconds)   # a host does 1 "flop" a second

    def move(self, count):
        self.compute(count * self.costs.memory)

    def meet(self):
        self.all.barriers[self.node].wait()
        self.all.simgrid.this_actor.sleep_for(self.costs.meeting)

    def send(self, to, count, kind):
        self.compute(self.costs.injection + count * self.costs.message_byte)
        return self.all.simgrid.Mailbox.by_name(f"{self.rank}-{to}-{kind}").put_async(0, max(int(count), 1))

    def receive(self, of, count, kind):
        """Lets it come; take() waits for it."""
        return self.all.simgrid.Mailbox.by_name(f"{of}-{self.rank}-{kind}").get_async(), count

    def take(self, message):
        (comm, _place), count = message   # the place must live as long
        comm.wait()
        self.compute(count * self.costs.message_byte)


def all_reduce(worker, size):
    """Communicator.all_reduce between nodes: a megabyte at once, every worker owns a share of it."""
    world = worker.nodes * worker.each
    for begin in range(0, size, STAGING):
        count = min(STAGING, size - begin)

        def share(rank):
            cut = [count if r == world else count * r // world // SHARE * SHARE for r in (rank, rank + 1)]
            return cut[1] - cut[0]

        mine = share(worker.rank)
        worker.move(2 * count)
        worker.meet()
        sent, results = [], []
        for owner in sorted([*worker.namesakes, worker.rank]):
            worker.move((worker.each + 1) * share(owner))
            if owner != worker.rank and share(owner) > 0:
                sent.append(worker.send(owner, share(owner), "up"))
                results.append(worker.receive(owner, share(owner), "down"))
        if mine > 0:
            for partial in [worker.receive(other, mine, "up") for other in worker.namesakes]:
                worker.take(partial)
            worker.move((worker.nodes + 1) * mine)
            sent += [worker.send(other, mine, "down") for other in worker.namesakes]
        for result in results:
            worker.take(result)
        for comm in sent:
            comm.wait()
        worker.meet()
        worker.move(2 * count)


def bucket(worker, size):
    """A bucket of gradients in training: reduce-scatter within the node, exchange between namesakes, the update (which
    is not counted), exchange again, all-gather within the node."""
    slice_ = size / worker.nodes / worker.each   # a worker owns this much
    in_node = (worker.each - 1) / worker.each * size
    worker.meet()
    worker.move(in_node)
    for kind in ("sum", "gather"):
        # Each starts with the one after it, so that not all send to the same one first.
        turn = [*worker.namesakes[worker.node:], *worker.namesakes[:worker.node]]
        coming = [worker.receive(other, slice_, kind) for other in turn]
        sent = [worker.send(other, slice_, kind) for other in turn]
        for message in coming:
            worker.take(message)
        for comm in sent:
            comm.wait()
    worker.meet()
    worker.move(in_node)


def simulate_here(nodes, each, costs, pattern, size):
    work = {"all_reduce": all_reduce, "bucket": bucket}[pattern]
    return Simulation(nodes, each, Costs(**costs)).run(lambda worker: work(worker, size))


def fit_messages(points, costs):
    """What a message costs, from clusters of one shape. Simulated time is a straight line in either cost."""
    rows, rest = [], []
    for point in points:
        shape = point["nodes"], point["each"], "all_reduce", point["bytes"]

        def time(**changed):
            return simulate(shape[0], shape[1], dataclasses.replace(costs, **changed), *shape[2:])

        none = time()
        rows.append([(time(message=1e-4) - none) / 1e-4, (time(message_byte=1e-9) - none) / 1e-9])
        rest.append(measured(point) - none)
    message, byte = fit(rows, rest)
    return dataclasses.replace(costs, message=message, message_byte=byte)

# report


# 64 nodes of 8 GPUs. None of it is measured here.
ASSUMED = Costs(processors=0, memory=1 / 450e9, meeting=10e-6, message=5e-6, message_byte=0.0, wire_byte=1 / 50e9,
                injection=1e-6)
NODES, GPUS = 64, 8


def closed_form(nodes, each, costs, size):
    """The bucket above, on paper."""
    slice_ = size / nodes / each
    within = costs.meeting + (each - 1) / each * size * costs.memory
    between = costs.message + (nodes - 1) * max(costs.injection, slice_ * costs.wire_byte)
    return 2 * (within + between)


def flat_ring(nodes, each, costs, size):
    """One ring through all, which changes node `nodes` times: its slowest link is the network's."""
    world = nodes * each
    return 2 * (world - 1) * (costs.message + size / world * costs.wire_byte)


def table(title, head, rows):
    lines = [f"## {title}", "", "| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in rows]) + "\n"


def size_text(size):
    return f"{size // MIB} MiB" if size >= MIB else f"{size // KIB} KiB"


def ms(seconds):
    return f"{1e3 * seconds:.3g}"


def error(predicted, measured):
    return f"{100 * (predicted / measured - 1):+.0f} %"


def report():
    data = json.loads((RESULTS / "scaling.json").read_text())
    points = data["points"]
    node_points = [p for p in points if p["nodes"] == 1]
    model = NodeModel([p for p in node_points if p["each"] in FITTED_NODES], data["processors"])
    costs = Costs(processors=data["processors"], memory=model.fast * data["processors"], meeting=model.alpha / 2,
                  message=0.0, message_byte=0.0)
    costs = fit_messages([p for p in points if (p["nodes"], p["each"]) in FITTED_CLUSTERS], costs)

    def row(point, predicted, fitted):
        shape = f"{point['nodes']} x {point['each']}"
        spread = f"{ms(measured(point))} ({point['ms'][0]:.3g} to {point['ms'][-1]:.3g})"
        return [shape, size_text(point["bytes"]), spread, ms(predicted), error(predicted, measured(point)),
                "fitted" if fitted else "**predicted**"]

    head = ["nodes x workers", "size", "measured, ms (least to most)", "model, ms", "error", ""]
    within = [row(p, model.seconds(p["each"], p["bytes"]), p["each"] in FITTED_NODES) for p in node_points]
    between = [row(p, simulate(p["nodes"], p["each"], costs, "all_reduce", p["bytes"]),
                   (p["nodes"], p["each"]) in FITTED_CLUSTERS) for p in points if p["nodes"] > 1]
    cluster = []
    for size in (MIB, 25 * MIB, 100 * MIB, 1024 * MIB):
        paper, flat = closed_form(NODES, GPUS, ASSUMED, size), flat_ring(NODES, GPUS, ASSUMED, size)
        simulated = simulate(NODES, 1, rail(ASSUMED, size), "bucket", size / GPUS)
        cluster.append([size_text(size), ms(paper), ms(simulated), error(simulated, paper), ms(flat),
                        f"{size / simulated / 1e9:.0f}"])
    constants = [["a meeting of a node's workers, for as many as there are processors", f"{1e6 * model.alpha:.0f} us"],
                 ["memory traffic, all processors, up to 8 MiB in all", f"{1e-9 / model.fast:.1f} GB/s"],
                 ["memory traffic, all processors, above", f"{1e-9 / model.slow:.1f} GB/s"],
                 ["a message between namespaces", f"{1e6 * costs.message:.0f} us"],
                 ["its bytes, on a processor at either end", f"{1e-9 / costs.message_byte:.2f} GB/s"]]
    text = [f"# Scaling: what was measured, fitted and predicted\n\n{data['cpu']}, {data['processors']} processors. "
            "Written by `benchmarks/scaling.py report`; docs/scaling.md tells what it means.\n",
            table("Constants, fitted", ["what", "is"], constants),
            table("Within a node: closed form", head, within),
            table("Between nodes (network namespaces of this machine): simulated", head, between),
            table(f"A bucket on {NODES} nodes x {GPUS} GPUs, constants assumed",
                  ["size", "closed form, ms", "simulated, ms", "difference", "flat ring, ms", "GB/s a GPU, simulated"],
                  cluster)]
    (RESULTS / "scaling.md").write_text("<!-- SPDX-License-Identifier: Apache-2.0 -->\n" + "\n".join(text))
    print("\n".join(text))


def rail(costs, size):
    """Each GPU has a network card of its own and talks to its namesakes alone, so one of them per node stands for all;
    what it does within the node is a time that is known."""
    within = (GPUS - 1) / GPUS * size * costs.memory
    return dataclasses.replace(costs, meeting=costs.meeting + within, memory=0.0)


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["measure"]:
            measure()
        case ["report"]:
            report()
        case ["simulate", request]:
            print(simulate_here(*json.loads(request)))
        case _:
            sys.exit(__doc__)
