"""Whether one learning rate is fair to all families: short trainings of each at several rates.

    python experiments/recipe/families.py train [DATA]
    python experiments/recipe/families.py report

One network of each family of `tiny` (experiments/throughput), the default recipe, two seeds; embedded data, or 4,000
images of what `--data` would take. Goes on where it stopped.
"""

import csv
import sys
from dataclasses import replace
from pathlib import Path

import pandas as pd
import torch

from hybridnas.data.loading import Loading
from hybridnas.data.sources import open_source
from hybridnas.proxy.training import DEFAULT_EPOCHS, Recipe, Trainer

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "throughput"))
from throughput import networks  # noqa: E402

FILE = HERE / "families.csv"
RATES = (0.75e-3, 1.5e-3, 3e-3, 6e-3, 12e-3)
SEEDS = 2


def train(data: str) -> None:
    torch.set_num_threads(1)
    trainer = Trainer(open_source(data).load(Loading(32)), torch.device("cpu"), threads=1)
    if not FILE.exists():
        FILE.write_text("data,family,rate,seed,accuracy\n")
    for seed in range(SEEDS):
        for family, network in networks().items():
            for rate in RATES:
                begins = f"{Path(data).stem},{family},{rate},{seed},"
                if begins in FILE.read_text():
                    continue
                recipe = replace(Recipe(DEFAULT_EPOCHS), learning_rate=rate)
                result = trainer.train(network, recipe, seed=seed)
                with FILE.open("a", newline="") as out:
                    csv.writer(out).writerow([*begins.rstrip(",").split(","), round(result.accuracy, 4)])


def report() -> None:
    found = pd.read_csv(FILE)
    table = found.pivot_table(index=["data", "family"], columns="rate", values="accuracy", sort=False)
    lost = table.max(axis=1) - table[Recipe.learning_rate]
    print((100 * table.assign(lost=lost)).round(1).to_string())


if __name__ == "__main__":
    if sys.argv[1:2] == ["report"]:
        report()
    else:
        train(sys.argv[2] if len(sys.argv) > 2 else "synthetic")
