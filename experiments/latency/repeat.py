"""What a timing of the same network differs by, minutes later, on a quiet machine and with one core kept busy.

    python experiments/latency/repeat.py [--space tiny] [--runtime onnxruntime]

24 random networks are timed in three rounds: twice as they are, and once while another process trains on one core.
"""

import argparse
import csv
import random
import statistics
import subprocess
import sys
import time
from pathlib import Path

from hybridnas import SearchSpace, build
from hybridnas.cost.latency import Timer
from hybridnas.cost.reference import reference_for

HERE = Path(__file__).parent
TRAINS = """
import torch
from torch import nn
torch.set_num_threads(1)
network = nn.Sequential(nn.Conv2d(3, 64, 3), nn.ReLU(), nn.Conv2d(64, 64, 3, 2), nn.Flatten(), nn.LazyLinear(9))
while True:
    network(torch.randn(32, 3, 64, 64)).square().mean().backward()
"""


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--space", default="hybrid")
    parser.add_argument("--runtime", default="torch")
    parser.add_argument("--networks", type=int, default=24)
    parser.add_argument("--first-seed", type=int, default=5000)
    arguments = parser.parse_args()
    space = SearchSpace.load(arguments.space)
    reference = reference_for(max(space.file.image_size))
    timer = Timer("cpu", runtime=arguments.runtime, threads=1, reference=reference)
    rows = {}
    start = time.monotonic()
    for name in ("first", "again", "busy"):
        busy = subprocess.Popen([sys.executable, "-c", TRAINS]) if name == "busy" else None
        try:
            for seed in range(arguments.first_seed, arguments.first_seed + arguments.networks):
                generator = random.Random(seed)
                network = space.sample(lambda _, values: generator.choice(values))  # noqa: B023
                latency = timer.measure(build(network, 10).deploy(), network.image_size)
                row = rows.setdefault(seed, {"seed": seed, "families": network.families})
                row |= {f"{name}_ms": round(latency.p50, 4), f"{name}_plain_ms": round(latency.raw_p50, 4)}
                row |= {f"{name}_at_s": round(time.monotonic() - start), f"{name}_passes": latency.num_samples}
        finally:
            if busy:
                busy.kill()
                busy.wait()
        print(name, "done after", round(time.monotonic() - start), "s", flush=True)
    with (HERE / f"repeat_{arguments.space}_{arguments.runtime}.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, next(iter(rows.values())).keys())
        writer.writeheader()
        writer.writerows(rows.values())
    for later in ("again", "busy"):
        for figure in ("ms", "plain_ms"):
            found = sorted(abs(row[f"{later}_{figure}"] / row[f"first_{figure}"] - 1) for row in rows.values())
            print(
                f"{later:5} {figure:8} differs from the first by {100 * statistics.median(found):.1f} % (median), "
                f"{100 * found[int(0.9 * len(found))]:.1f} % (90th percentile), {100 * found[-1]:.1f} % (most)"
            )


if __name__ == "__main__":
    main()
