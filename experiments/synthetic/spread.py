"""How far apart do the candidates of the default run lie? See README.md."""

from __future__ import annotations

import argparse
import csv
import random
from dataclasses import asdict
from pathlib import Path

import torch

from hybridnas import SearchSpace
from hybridnas.cost.budget import Budget
from hybridnas.cost.latency import Timer
from hybridnas.cost.measure import measure_cost
from hybridnas.data.synthetic import synthetic_dataset
from hybridnas.proxy.training import DEFAULT_EPOCHS, Recipe, Trainer

parser = argparse.ArgumentParser()
parser.add_argument("--samples", type=int, default=24)
parser.add_argument("--epochs", type=int, default=DEFAULT_EPOCHS)
parser.add_argument("--threads", type=int, default=2)
parser.add_argument("--budget-ms", type=float, default=10)
parser.add_argument("--out", type=Path, default=Path(__file__).parent / "spread.csv")
arguments = parser.parse_args()

space = SearchSpace.load("tiny")
data = synthetic_dataset(max(space.file.image_size), seed=0)
trainer = Trainer(data, torch.device("cpu"), threads=arguments.threads)
timer = Timer("cpu", threads=arguments.threads)
generator = random.Random(0)
candidates = {name: space.design(families) for name, families in space.layouts().items()}
for i in range(arguments.samples):
    candidates[f"random {i}"] = space.sample(lambda name, values: generator.choice(values))

with arguments.out.open("w", newline="") as file:
    writer = None
    for name, architecture in candidates.items():
        assert architecture
        cost = measure_cost(architecture, data.num_classes, timer, Budget())
        row = {"name": name, "families": architecture.families, "image_size": architecture.image_size}
        row |= {"depths": " ".join(str(stage.depth) for stage in architecture.stages)} | asdict(cost)
        row |= {"accuracy": "", "seconds": ""}
        assert cost.latency_ms_p50
        if cost.latency_ms_p50 <= arguments.budget_ms:
            result = trainer.train(architecture, Recipe(arguments.epochs), seed=0)
            row |= {"accuracy": result.accuracy, "seconds": round(result.seconds, 1)}
        writer = writer or csv.DictWriter(file, list(row))
        if file.tell() == 0:
            writer.writeheader()
        writer.writerow(row)
        file.flush()
        print(name, row["families"], f"{cost.latency_ms_p50:.2f} ms", row["accuracy"], row["seconds"], flush=True)
