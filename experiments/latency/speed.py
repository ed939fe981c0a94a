"""How many architectures a second the table checks against all budgets, once it knows their parts.

    python experiments/latency/speed.py [tiny hybrid ...]

Counts and times are made up and nothing is built or timed: what is measured is the sums, the calibration's interval
and the comparison with the budgets, of architectures that are new to the process.
"""

import argparse
import random
import tempfile
import time
from pathlib import Path

from hybridnas import SearchSpace
from hybridnas.architecture import Architecture
from hybridnas.cost.budget import Budget
from hybridnas.cost.measure import Costing
from hybridnas.cost.parts import parts_of
from hybridnas.cost.predict import Predictor
from hybridnas.cost.runtimes import Setting
from hybridnas.cost.table import Count, Table, Time, Timed, code_digest
from hybridnas.cost.whole import parts_in, timings_in

NUM_CLASSES = 1000
NUM_CALIBRATION = 40
NUM_CHECKED = 5000


class NoTimer:
    """Says what it would be asked before anything is timed."""

    target = "cpu"
    setting = Setting()
    reference_ms = 10.0
    fingerprint = "made up"
    environment: dict = {}


def draw(space: SearchSpace, number: int, seed: int) -> list[Architecture]:
    generator = random.Random(seed)
    return [space.sample(lambda name, values: generator.choice(values)) for _ in range(number)]


def fill(space: SearchSpace, table: Table) -> None:
    """Make up the counts and times of everything in a space, and of some networks."""
    generator = random.Random(0)
    for part in parts_in(space, NUM_CLASSES):
        layouts = (generator.random() < 0.2, generator.random() < 0.8)
        table.add_count(part.key, Count(*(generator.randrange(10**6) for _ in range(4)), layouts))
    predictor = Costing([NoTimer()], NUM_CLASSES, table).predictors[0]
    context = f"{NoTimer.fingerprint}-{code_digest()}"
    for timing in timings_in(space, NUM_CLASSES, predictor.lays_last):
        table.add_time(context, timing.key, Time(generator.uniform(0.05, 0.5), 0.0, 1.0, 21))
    for network in draw(space, NUM_CALIBRATION, seed=0):
        parts = {timing.key: often for timing, often in predictor.timings(network).items()}
        ratio = generator.uniform(0.9, 1.1) * sum(parts.values()) * 0.25
        table.add_network(context, network.key, Timed(parts, ratio))


def check(costing: Costing, predictor: Predictor, network: Architecture, budget: Budget) -> bool:
    """Whether counts, and the whole interval of the prediction, allow a network."""
    if budget.excess(costing.count(network)) > 0 or predictor.missing([network]):
        return False
    return predictor.predict(network).low <= budget.ms


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("spaces", nargs="*", default=["tiny", "hybrid"])
    budget = Budget(ms=30.0, macs=1e12, params=1e12)
    for name in parser.parse_args().spaces:
        space = SearchSpace.load(name)
        networks = draw(space, NUM_CHECKED, seed=1)
        with tempfile.TemporaryDirectory() as folder:
            table = Table(Path(folder) / "cost.sqlite")
            fill(space, table)
            start = time.perf_counter()
            costing = Costing([NoTimer()], NUM_CLASSES, table)
            opened = time.perf_counter() - start
            start = time.perf_counter()
            held = sum(check(costing, costing.predictors[0], network, budget) for network in networks)
            seconds = time.perf_counter() - start
            table.close()
        num_parts = sum(1 for network in networks for _ in parts_of(network, NUM_CLASSES)) / len(networks)
        print(
            f"{name}: {len(networks) / seconds:.0f} architectures a second ({num_parts:.1f} parts each, {held} of "
            f"{len(networks)} allowed); opening the table took {opened:.2f} s"
        )


if __name__ == "__main__":
    main()
