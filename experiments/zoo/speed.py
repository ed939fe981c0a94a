"""Eager time of every design of the zoo over that of timm's own model: a forward pass, and a training step.

    python experiments/zoo/speed.py [NAME...] [--threads 1] [--out speed.csv]

The two models, with the same weights, take turns in one process; what is recorded is the median of the ratios of
neighbouring runs, with the ratio of timm's model to itself, timed the same way, beside it: that is what the machine's
noise makes of a true 1.00.
"""

import argparse
import csv
import math
import statistics
import time
from pathlib import Path

import torch
from torch import nn

from hybridnas import zoo

HERE = Path(__file__).parent
SECONDS = 8.0
MIN_PAIRS = 5


def forward(model: nn.Module, images: torch.Tensor):
    model.eval()

    def run() -> None:
        with torch.inference_mode():
            model(images)

    return run


def train_step(model: nn.Module, images: torch.Tensor):
    model.train()

    def run() -> None:
        scores = model(images)
        # Distilled models of timm's give two scores while training; ours their average.
        sum(part.square().mean() for part in (scores if isinstance(scores, tuple) else (scores,))).backward()
        for parameter in model.parameters():
            parameter.grad = None

    return run


def seconds(run) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def ratio(ours, theirs, budget_s: float = SECONDS) -> float:
    """Median of ours / theirs; each turn goes theirs, ours, theirs, and divides by the mean of its neighbours."""
    for run in (ours, theirs):
        run()
    ratios = []
    end = time.perf_counter() + budget_s
    before = seconds(theirs)
    while len(ratios) < MIN_PAIRS or time.perf_counter() < end:
        own = seconds(ours)
        after = seconds(theirs)
        ratios.append(2 * own / (before + after))
        before = after
    return statistics.median(ratios)


def balanced(ours, theirs, budget_s: float) -> float:
    """The ratio, without what the place in the turn is worth: a train step gained or lost up to a tenth by it."""
    return math.sqrt(ratio(ours, theirs, budget_s / 2) / ratio(theirs, ours, budget_s / 2))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("names", nargs="*", default=[name for name in zoo.names() if zoo.entry(name).timm])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=SECONDS)
    parser.add_argument("--forward-only", action="store_true")
    parser.add_argument("--out", type=Path, default=HERE / "speed.csv")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    rows = {}
    if arguments.out.is_file():  # rows of other designs are kept
        with arguments.out.open(newline="") as file:
            rows = {row["name"]: row for row in csv.DictReader(file)}
    for name in arguments.names:
        theirs = zoo.timm_model(name)
        ours = zoo.from_timm(name, theirs)
        size = zoo.load(name).image_size
        image, batch = torch.randn(1, 3, size, size), torch.randn(8, 3, size, size)
        deployed = ours.deploy()
        row = {"name": name, "null_b1": balanced(forward(theirs, image), forward(theirs, image), arguments.seconds)}
        row["forward_b1"] = balanced(forward(ours, image), forward(theirs, image), arguments.seconds)
        row["deployed_b1"] = balanced(forward(deployed, image), forward(theirs, image), arguments.seconds)
        if not arguments.forward_only:
            row["train_step_b8"] = balanced(train_step(ours, batch), train_step(theirs, batch), arguments.seconds)
        row = {key: round(value, 3) if isinstance(value, float) else value for key, value in row.items()}
        print(*row.values(), sep="  ", flush=True)
        rows[name] = row
        with arguments.out.open("w", newline="") as file:
            writer = csv.DictWriter(file, row.keys())
            writer.writeheader()
            writer.writerows(rows.values())


if __name__ == "__main__":
    main()
