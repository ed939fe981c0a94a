"""How well the table predicts: random networks of a space, predicted from their parts and then timed as a whole.

    python experiments/latency/predict.py [--runtime onnxruntime] [--space hybrid]

First the calibration networks are timed as a search would, with their parts. Then, at another time, the parts of the
held-out networks that the table lacks; last of all the held-out networks themselves, which the calibration never sees.
They are timed in three sittings with pauses, as an exported file is: what is compared with should be no guess itself.
Networks that the runtime cannot run (parts whose ONNX file is over 2 GB) are left out, and counted.
"""

import argparse
import csv
import itertools
import random
import tempfile
import time
from pathlib import Path

import numpy as np
from scipy.stats import spearmanr

from hybridnas import SearchSpace, build
from hybridnas.architecture import Architecture
from hybridnas.cost.latency import Timer
from hybridnas.cost.predict import Counter, Predictor
from hybridnas.cost.reference import reference_for
from hybridnas.cost.runtimes import Input, to_onnx
from hybridnas.cost.table import Table
from hybridnas.cost.targets import Model
from hybridnas.errors import CannotRun

HERE = Path(__file__).parent
NUM_CLASSES = 10


def draw(space: SearchSpace, seed: int) -> Architecture:
    generator = random.Random(seed)
    return space.sample(lambda name, values: generator.choice(values))


def _file(network: Architecture, timer: Timer) -> Model:
    """The deploy form, exported once where the runtime takes a file."""
    module = build(network, NUM_CLASSES).deploy()
    if not timer.setting.takes_file:
        return module
    path = Path(tempfile.gettempdir()) / "predict.onnx"
    path.write_bytes(to_onnx(module, Input((1, 3, network.image_size, network.image_size))))
    return path


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
    setting = {"runtime": arguments.runtime, "threads": arguments.threads}
    timer = Timer(arguments.target, reference=reference_for(max(space.file.image_size)), **setting)
    predictor = Predictor(Counter(Table(arguments.table), NUM_CLASSES), timer)

    start = time.monotonic()
    for seed in range(1000, 1000 + arguments.calibration):
        network = draw(space, seed)
        if network.key in predictor._networks:
            continue
        try:
            latency, _ = predictor.measure(network)
        except CannotRun as error:
            print(f"calibration {seed}: {error}", flush=True)
            continue
        print(f"{time.monotonic() - start:6.0f} s  calibration {seed}: {latency.p50:.3g} ms", flush=True)

    held_out = {}
    for seed in itertools.count():
        network = draw(space, seed)
        missing = predictor.missing([network])
        try:
            predictor.fill(missing)
        except CannotRun as error:
            print(f"left out {seed}: {error}", flush=True)
            continue
        held_out[seed] = network
        print(f"{time.monotonic() - start:6.0f} s  {len(missing)} parts of {seed}", flush=True)
        if len(held_out) == arguments.held_out:
            break

    rows = []
    for seed, network in held_out.items():
        foreseen = predictor.predict(network)
        macs, params = predictor.counter.count(network)
        latency = timer.measure_apart(_file(network, timer), network.image_size, sittings=3, seconds=1, pause=1)
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
