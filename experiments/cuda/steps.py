"""How quick training steps are on a GPU: with and without CUDA graphs, in bfloat16, and in contiguous memory.

    python experiments/cuda/steps.py FOLDER

One network of each family of `tiny`, 16 classes. What is compared takes turns, ROUNDS times; steps.csv has
median milliseconds of a step, the ratio of the plain step's (full precision, no graph, channels last) to it over the
rounds, and the seconds that the first step took, in which kernels are chosen and some are compiled.
"""

import statistics
import sys
import time
from dataclasses import replace
from pathlib import Path

import pandas as pd
import torch
from torch import Tensor

from hybridnas import Architecture, SearchSpace, build
from hybridnas.proxy import steps
from hybridnas.proxy.training import in_layout, parameter_groups

FAMILIES = ("mbconv", "convnext", "window", "global", "repmixer")
#: Images of a batch, and their pixels a side.
BATCHES = ((32, 32), (128, 32), (32, 64))
ROUNDS, STEPS = 5, 40
#: Name, what autocast multiplies in, whether steps are recorded, the layout of memory.
WAYS = (
    ("plain", None, False, torch.channels_last),
    ("bf16", torch.bfloat16, False, torch.channels_last),
    ("graph", None, True, torch.channels_last),
    ("bf16 graph", torch.bfloat16, True, torch.channels_last),
    ("plain contiguous", None, False, torch.contiguous_format),
    ("graph contiguous", None, True, torch.contiguous_format),
    ("bf16 graph contiguous", torch.bfloat16, True, torch.contiguous_format),
)


def network_of(family: str, image_size: int) -> Architecture:
    space = SearchSpace.load("tiny")
    found = space.design((family,) * 4, size=0.5) or space.design(("convnext",) + (family,) * 3, size=0.5)
    assert found is not None
    return replace(found, image_size=image_size)


def make(network: Architecture, dtype: torch.dtype | None, recorded: bool, layout: torch.memory_format) -> steps.Step:
    torch.manual_seed(0)
    model = in_layout(build(network, 16).cuda().train(), layout)
    optimizer = torch.optim.AdamW(parameter_groups(model, 0.05), lr=1e-3, fused=True)
    scaler = torch.amp.GradScaler("cuda", enabled=False)
    step = steps.make_step(model, optimizer, scaler, dtype=dtype, label_smoothing=0.1, clip_norm=1.0)
    if recorded:
        return step
    for group in optimizer.param_groups:
        group |= {"lr": 1e-3, "capturable": False}
    return step._step  # type: ignore[attr-defined, no-any-return]


def milliseconds(step: steps.Step, x: Tensor, labels: Tensor) -> float:
    taken = []
    for _ in range(STEPS):
        start = time.perf_counter()
        step(x, labels).item()
        taken.append(1000 * (time.perf_counter() - start))
    return statistics.median(taken)


def main() -> None:
    folder = Path(sys.argv[1])
    rows = []
    for family in FAMILIES:
        for batch, size in BATCHES:
            network = network_of(family, size)
            x = torch.randn(batch, 3, size, size, device="cuda")
            labels = torch.arange(batch, device="cuda") % 16
            ways = {
                name: (make(network, dtype, recorded, layout), x.contiguous(memory_format=layout))
                for name, dtype, recorded, layout in WAYS
            }
            first = {}
            for name, (step, images) in ways.items():
                start = time.perf_counter()
                step(images, labels).item()
                first[name] = time.perf_counter() - start
                milliseconds(step, images, labels)
            taken = [
                {name: milliseconds(step, images, labels) for name, (step, images) in ways.items()}
                for _ in range(ROUNDS)
            ]
            for name in ways:
                ratios = [each["plain"] / each[name] for each in taken]
                rows.append(
                    {
                        "family": family,
                        "batch": batch,
                        "px": size,
                        "way": name,
                        "ms": round(statistics.median(each[name] for each in taken), 3),
                        "ratio": round(statistics.median(ratios), 2),
                        "low": round(min(ratios), 2),
                        "high": round(max(ratios), 2),
                        "first_s": round(first[name], 2),
                    }
                )
                print(rows[-1], flush=True)
            pd.DataFrame(rows).to_csv(folder / "steps.csv", index=False)


if __name__ == "__main__":
    main()
