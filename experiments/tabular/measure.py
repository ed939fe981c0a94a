"""Costs of the 256 architectures: multiply-adds, parameters and milliseconds in two runtimes. Goes on where it stopped.

python experiments/tabular/measure.py        # one thread, batch 1; milliseconds at the reference's speed when it began
"""

import csv
import random

from record import DATA, architectures

from hybridnas import build
from hybridnas.cost import count_macs
from hybridnas.cost.latency import Timer
from hybridnas.model import num_params

FILE = DATA / "networks.csv"
RUNTIMES = ("torch", "onnxruntime")
FIELDS = ["key", "families", "macs", "params", *(f"{r}_{f}" for r in RUNTIMES for f in ("ms", "low", "high"))]


def main() -> None:
    if not FILE.exists():
        FILE.write_text(",".join(FIELDS) + "\n")
    timers = {runtime: Timer("cpu", threads=1, runtime=runtime) for runtime in RUNTIMES}
    networks = sorted(architectures().items())
    random.Random(1).shuffle(networks)
    for name, network in networks:
        if f",{name}," in FILE.read_text():
            continue
        module = build(network, 16).deploy()
        row = [network.key, name, count_macs(module, network.image_size), num_params(module)]
        for timer in timers.values():
            latency = timer.measure(module, network.image_size, seconds=1.0)
            row += [round(figure, 4) for figure in (latency.p50, latency.low, latency.high)]
        with FILE.open("a", newline="") as out:
            csv.writer(out).writerow(row)
        print(row, flush=True)


if __name__ == "__main__":
    main()
