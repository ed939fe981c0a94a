"""The tabular benchmark: every architecture of closed.yaml, trained for real. Goes on where it stopped.

    python experiments/tabular/record.py [FASHION_MNIST_NPZ]        # several processes may run at once

Each architecture is trained on 4,000 embedded images for four epochs; the 16 layouts of mbconv and global attention,
and 48 others, from two further seeds; these 16 and 64 others on 4,000 images of Fashion-MNIST, too. A row a training.
"""

import csv
import itertools
import random
import sys
import time
from pathlib import Path

import torch

from hybridnas import Architecture, SearchSpace
from hybridnas.data.dataset import Dataset
from hybridnas.data.loading import Loading
from hybridnas.data.sources import open_source
from hybridnas.data.synthetic import synthetic_dataset
from hybridnas.proxy.training import Recipe, Trainer

HERE = Path(__file__).parent
DATA = HERE / "data"
FILE = DATA / "trainings.csv"
FAMILIES = ("mbconv", "convnext", "window", "global")
EPOCHS, NUM_IMAGES = 4, 4000
NUM_REPEATED, NUM_FASHION = 48, 64


def architectures() -> dict[str, Architecture]:
    """All 256, by their families."""
    space = SearchSpace.load(DATA / "closed.yaml")
    found = {}
    for families in itertools.product(FAMILIES, repeat=4):
        network = space.design(families)
        assert network is not None
        found["-".join(families)] = network
    return found


def plan(with_fashion: bool) -> list[tuple[str, str, int]]:
    """(data, families, seed) in the order in which they are worth most."""
    names = sorted(architectures())
    vertical = ["-".join(row) for row in itertools.product(("mbconv", "global"), repeat=4)]
    others = sorted(set(names) - set(vertical))
    random.Random(0).shuffle(others)
    jobs = [("synthetic", name, 0) for name in vertical + others]
    jobs += [("synthetic", name, seed) for seed in (1, 2) for name in vertical]
    if with_fashion:
        jobs += [("fashion-mnist", name, 0) for name in vertical + others[:NUM_FASHION]]
    return jobs + [("synthetic", name, seed) for seed in (1, 2) for name in others[:NUM_REPEATED]]


def dataset(data: str, file: str) -> Dataset:
    if data == "synthetic":
        return synthetic_dataset(32, seed=0, num_train=NUM_IMAGES, num_validation=2000)
    return open_source(file).load(Loading(32, max_train=NUM_IMAGES))


def main() -> None:
    file = sys.argv[1] if len(sys.argv) > 1 else ""
    torch.set_num_threads(1)
    if not FILE.exists():
        FILE.write_text("data,families,seed,epoch_1,epoch_2,epoch_3,epoch_4,seconds\n")
    networks = architectures()
    trainers: dict[str, Trainer] = {}
    claims = HERE / "claims"
    claims.mkdir(exist_ok=True)
    for data, name, seed in plan(bool(file)):
        if f"\n{data},{name},{seed}," in FILE.read_text():
            continue
        try:
            (claims / f"{data} {name} {seed}").touch(exist_ok=False)
        except FileExistsError:  # another process is at it; empty the folder after one was killed
            continue
        if data not in trainers:
            trainers[data] = Trainer(dataset(data, file), torch.device("cpu"), threads=1)
        result = trainers[data].train(networks[name], Recipe(EPOCHS), seed=seed)
        with FILE.open("a", newline="") as out:
            csv.writer(out).writerow([data, name, seed, *result.accuracies, round(result.seconds, 2)])
        print(
            f"{time.strftime('%H:%M:%S')} {data} {name} {seed} {result.accuracy:.3f} {result.seconds:.1f} s", flush=True
        )


if __name__ == "__main__":
    main()
