"""How well the table predicts: random networks of a space, predicted from their parts and then timed as a whole.

    python experiments/latency/predict.py [--runtime onnxruntime] [--space hybrid]

First the calibration networks are timed as a search would, with their parts. Then, at another time, the parts of the
held-out networks that the table lacks; last of all the held-out networks themselves, which the calibration never sees.
"""

import argparse
import csv
import random
import time
from pathlib import Path

import numpy as np
from scipy.stats import spearmanr

from hybridnas import SearchSpace, build
from hybridnas.architecture import Architecture
from hybridnas.cost.latency import Timer
from hybridnas.cost.predict import Counter, Predictor
from hybridnas.cost.table import Table

HERE = Path(__file__).parent
NUM_CLASSES = 10


def draw(space: SearchSpace, seed: int) -> Architecture:
    generator = random.Random(seed)
    return space.sample(lambda name, values: generator.choice(values))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--space", default="hybrid")
    parser.add_argument("--target", default="cpu")
    parser.add_argument("--runtime", default="torch")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--calibration", type=int, default=40)
    parser.add_argument("--held-out", type=int, default=100)
    parser.add_argument("--table", type=Path, default=None)
    parser.add_argument("--out", type=Path, default=None)
    arguments = parser.parse_args()
    out = arguments.out or HERE / f"predict_{arguments.space}_{arguments.runtime}.csv"
    space = SearchSpace.load(arguments.space)
    timer = Timer(arguments.target, runtime=arguments.runtime, threads=arguments.threads)
    predictor = Predictor(Counter(Table(arguments.table), NUM_CLASSES), timer)

    start = time.monotonic()
    for seed in range(1000, 1000 + arguments.calibration):
        network = draw(space, seed)
        if network.key in predictor._networks:
            continue
        latency, _ = predictor.measure(network)
        print(f"{time.monotonic() - start:6.0f} s  calibration {seed}: {latency.p50:.3g} ms", flush=True)

    held_out = {seed: draw(space, seed) for seed in range(arguments.held_out)}
    for seed, network in held_out.items():
        missing = predictor.missing([network])
        predictor.fill(missing)
        print(f"{time.monotonic() - start:6.0f} s  {len(missing)} parts of {seed}", flush=True)

    rows = []
    for seed, network in held_out.items():
        foreseen = predictor.predict(network)
        macs, params = predictor.counter.count(network)
        latency = timer.measure(build(network, NUM_CLASSES).deploy(), network.image_size, seconds=4)
        row = {
            "seed": seed,
            "families": network.families,
            "image_size": network.image_size,
            "macs": macs,
            "params": params,
            "predicted_ms": foreseen.ms,
            "predicted_low": foreseen.low,
            "predicted_high": foreseen.high,
            "measured_ms": latency.p50,
            "measured_low": latency.low,
            "measured_high": latency.high,
            "passes": latency.num_samples,
        }
        rows.append({name: round(value, 4) if isinstance(value, float) else value for name, value in row.items()})
        print(f"{time.monotonic() - start:6.0f} s  held out {seed}: {latency.p50:.3g} ms, {foreseen}", flush=True)
        with out.open("w", newline="") as file:
            writer = csv.DictWriter(file, rows[0].keys())
            writer.writeheader()
            writer.writerows(rows)
    print(summary(rows))


def summary(rows: list[dict]) -> str:
    predicted, measured, low, high = (
        np.array([row[name] for row in rows], float)
        for name in ("predicted_ms", "measured_ms", "predicted_low", "predicted_high")
    )
    error = np.abs(predicted / measured - 1)
    return (
        f"{len(rows)} networks of {measured.min():.3g} to {measured.max():.4g} ms: "
        f"within 10 % {100 * np.mean(error <= 0.1):.0f} %, "
        f"within 5 % {100 * np.mean(error <= 0.05):.0f} %, median error {100 * np.median(error):.1f} %, "
        f"largest {100 * error.max():.0f} %, Spearman {spearmanr(predicted, measured)[0]:.4f}, "
        f"inside the stated 95 % interval {100 * np.mean((low <= measured) & (measured <= high)):.0f} %"
    )


if __name__ == "__main__":
    main()
