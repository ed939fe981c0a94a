"""What does the cost-aware sampler's model foresee of designs that it has not seen? Judged on real trainings.

    python experiments/search/surrogate.py record [--seed 0] [--count 120]
    python experiments/search/surrogate.py report

`record` trains random designs of `tiny` that take up to 0.85 of the small reference network's time, as the default
search does, and appends them to designs.csv. `report` fits the model on some of them, drawn anew 24 times, and compares
what it foresees with what the others did: Kendall's tau, and the mean accuracy of the tenth that it likes best.
"""

import argparse
import csv
import random
import time
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from scipy.stats import kendalltau

from hybridnas import Architecture, SearchSpace, build
from hybridnas.cost.reference import SMALL
from hybridnas.data.loading import Loading
from hybridnas.data.sources import open_source
from hybridnas.proxy.training import Recipe, Trainer
from hybridnas.study import surrogate
from hybridnas.study.surrogate import Candidate, Encoding, regress

FILE = Path(__file__).parent / "designs.csv"
EPOCHS, MOST, PASSES, WARM = 3, 0.85, 25, 5
SEEN, REPEATS = (10, 20, 40, 80), 24
#: What is switched off, by the constants of hybridnas.study.surrogate.
WAYS: dict[str, dict] = {
    "as it is": {},
    "sums and shares no columns": {"SUM_WEIGHT": 0.0, "SHARE_WEIGHT": 0.0},
    "options count like others": {"OPTION_WEIGHT": 1.0},
    "loose bounds": {"VARIANCE": (1e-2, 1e2), "NOISE": (1e-4, 1.0), "LENGTH": (0.05, 20.0)},
}
WAYS["all three"] = {name: value for way in WAYS.values() for name, value in way.items()}
WAYS["fitted to the last digit"] = {"TOLERANCE": 2.2e-9}


def record(seed: int, count: int) -> None:
    torch.set_num_threads(1)
    space, generator = SearchSpace.load("tiny"), random.Random(seed)
    trainer = Trainer(open_source("synthetic").load(Loading(32, 0, 4000)), torch.device("cpu"), threads=1)
    reference = build(SMALL, 16).deploy().eval()
    if not FILE.exists():
        FILE.write_text(",".join(["share", *(f"epoch_{i + 1}" for i in range(EPOCHS)), "architecture"]) + "\n")
    for _ in range(count):
        share = MOST + 1
        while share > MOST:
            design = space.sample(lambda _, values: generator.choice(values))
            share = share_of(build(design, 16).deploy().eval(), reference)
        found = trainer.train(design, Recipe(EPOCHS), seed=generator.randrange(10**6))
        with FILE.open("a", newline="") as out:
            csv.writer(out).writerow([round(share, 4), *found.accuracies, design.to_json(indent=None)])


def share_of(network: torch.nn.Module, reference: torch.nn.Module) -> float:
    """How many times a reference's latency, in turns."""
    image = torch.rand(1, 3, 32, 32)
    taken: tuple[list[float], list[float]] = [], []
    with torch.inference_mode():
        for _ in range(PASSES):
            for model, times in zip((network, reference), taken, strict=True):
                started = time.perf_counter()
                model(image)
                times.append(time.perf_counter() - started)
    return float(np.quantile(taken[0][WARM:], 0.25) / np.quantile(taken[1][WARM:], 0.25))


def report() -> None:
    rows = pd.read_csv(FILE)
    space, generator = SearchSpace.load("tiny"), random.Random(0)
    pool = [space.sample(lambda _, values: generator.choice(values)) for _ in range(2000)]
    designs = [Architecture.from_json(text) for text in rows.architecture]
    accuracy, latency = rows[f"epoch_{EPOCHS}"].to_numpy(), np.log(rows.share.to_numpy())
    print(f"{len(rows)} designs, mean accuracy {accuracy.mean():.3f}")
    lines = []
    for way, constants in WAYS.items():
        kept = {name: getattr(surrogate, name) for name in constants}
        for name, value in constants.items():
            setattr(surrogate, name, value)
        encoding = Encoding([Candidate(each, space.encode(each)) for each in pool])
        points = encoding([Candidate(each, space.encode(each)) for each in designs])
        for seen in SEEN:
            started = time.process_time()
            tau, liked = foreseen(points, accuracy, seen)
            milliseconds = 1000 * (time.process_time() - started) / REPEATS
            line = {"columns and kernel": way, "seen": seen, "accuracy: tau": tau, "of the tenth liked best": liked}
            lines.append(line | {"latency: tau": foreseen(points, latency, seen)[0], "ms a fit": milliseconds})
        for name, value in kept.items():
            setattr(surrogate, name, value)
    print(pd.DataFrame(lines).round(2).to_markdown(index=False))


def foreseen(points: np.ndarray, values: np.ndarray, seen: int) -> tuple[float, float]:
    found = []
    for repeat in range(REPEATS):
        order = np.random.default_rng(repeat).permutation(len(values))
        some, others = order[:seen], order[seen:]
        mean, _ = regress(points[some], values[some])(points[others])
        tau = kendalltau(mean, values[others]).statistic if np.ptp(mean) > 1e-9 else 0.0
        liked = np.argsort(-mean)[: len(others) // 10]
        found.append((tau, values[others][liked].mean()))
    return tuple(np.mean(found, axis=0))


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("what", choices=["record", "report"])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--count", type=int, default=120)
    arguments = parser.parse_args()
    record(arguments.seed, arguments.count) if arguments.what == "record" else report()
