"""How near training comes to a bare loop, to the machine's peak, and what a second process, a layout, compiling bring.

    python experiments/throughput/throughput.py [loop] [layout] [processes] [compile]

Embedded data, 32 px, one network of each family of `tiny` (the middle of each list), one thread. What is compared takes
turns: all figures are medians of ratios within one run (low and high are the quartiles of steps, else the least and the
most of the rounds), and land in throughput.csv.
"""

import csv
import statistics
import subprocess
import sys
import time
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812

from hybridnas import Architecture, SearchSpace, build
from hybridnas.cost import count_macs
from hybridnas.data.loading import Loading
from hybridnas.data.sources import open_source
from hybridnas.proxy.training import Recipe, Trainer, parameter_groups

HERE = Path(__file__).parent
FAMILIES = ("mbconv", "convnext", "repmixer", "window", "global")
BATCH, ROUNDS = 128, 5
SECONDS = 20.0


def networks() -> dict[str, Architecture]:
    """One of each family, with few blocks: their kind is what differs."""
    space = SearchSpace.load("tiny")
    found = {}
    for family in FAMILIES:
        network = space.design((family,) * 4, size=0.5)
        if network is None:  # global attention on 16 x 16 is not in the space
            network = space.design(("convnext",) + (family,) * 3, size=0.5)
        found[family] = network
    return found


def step(model: nn.Module, batch: tuple, optimizer: torch.optim.Optimizer) -> float:
    """Seconds of a step over tensors that lie ready."""
    start = time.perf_counter()
    loss = F.cross_entropy(model(batch[0]), batch[1])
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    optimizer.step()
    return time.perf_counter() - start


def bare(model: nn.Module, batches: list, optimizer: torch.optim.Optimizer) -> float:
    """Median seconds of a step."""
    model.train()
    return statistics.median([step(model, batch, optimizer) for batch in batches][1:])


def in_turns(trainer: Trainer, network: Architecture, batches: list) -> tuple[list[float], list[float]]:
    """Seconds of the steps of a short training, and of as many bare ones of the same network in between."""
    model, optimizer = fresh(network, torch.channels_last)
    model.train()
    own: list[float] = []
    other: list[float] = []
    left = 0.0

    def between(share: float) -> None:
        nonlocal left
        own.append(time.perf_counter() - left)
        other.append(step(model, batches[len(other) % len(batches)], optimizer))
        left = time.perf_counter()

    trainer.train(network, Recipe(ROUNDS, BATCH), seed=0, on_step=between)
    return own[2:], other[2:]


def prepared(trainer: Trainer, size: int, layout: torch.memory_format) -> list:
    order = torch.Generator().manual_seed(0)
    batches = trainer.batches("train", size).shuffled(BATCH, order, nn.Identity())
    return [(x.contiguous(memory_format=layout), labels) for x, labels in batches]


def peak() -> float:
    """GFLOP/s of a matrix product, one thread."""
    a, b = torch.randn(1024, 1024), torch.randn(1024, 1024)
    seconds = []
    for _ in range(9):
        start = time.perf_counter()
        a @ b
        seconds.append(time.perf_counter() - start)
    return 2 * 1024**3 / min(seconds) / 1e9


def fresh(network: Architecture, layout: torch.memory_format):
    torch.manual_seed(0)
    model = build(network, 16).to(memory_format=layout)
    return model, torch.optim.AdamW(parameter_groups(model, 0.05), lr=1e-3, fused=True)


def loop(trainer: Trainer) -> list[dict]:
    rows = []
    for family, network in networks().items():
        batches = prepared(trainer, network.image_size, torch.channels_last)
        macs = count_macs(build(network, 16), network.image_size)
        own, other = in_turns(trainer, network, batches)
        ratios = [there / here for here, there in zip(own, other, strict=True)]
        low, ratio, high = statistics.quantiles(ratios, n=4)
        gflops = 3 * 2 * macs * BATCH / statistics.median(own) / 1e9
        rows.append(
            {
                "what": "loop",
                "family": family,
                "ratio": ratio,
                "low": low,
                "high": high,
                "gflops": gflops,
                "share_of_peak": gflops / peak(),
            }
        )
        print(rows[-1], flush=True)
    return rows


def layout(trainer: Trainer) -> list[dict]:
    rows = []
    for family, network in networks().items():
        given = {form: prepared(trainer, network.image_size, form) for form in FORMS}
        ratios = []
        for _ in range(ROUNDS):
            taken = {}
            for form in FORMS:
                model, optimizer = fresh(network, form)
                taken[form] = bare(model, given[form], optimizer)
            ratios.append(taken[torch.contiguous_format] / taken[torch.channels_last])
        rows.append(about("channels last over contiguous", family, ratios))
    return rows


FORMS = (torch.contiguous_format, torch.channels_last)


def about(what: str, family: str, ratios: list[float]) -> dict:
    row = {
        "what": what,
        "family": family,
        "ratio": statistics.median(ratios),
        "low": min(ratios),
        "high": max(ratios),
    }
    print(row, flush=True)
    return row


def work(threads: int, seconds: float) -> None:
    """What one process does: trainings of all families in turn for so long; prints images a second."""
    trainer = make_trainer(threads)
    designs = list(networks().values())
    for network in designs:  # reads the data, and the first pass
        trainer.train(network, Recipe(1, 1600), seed=0)
    images, start = 0, time.perf_counter()
    while time.perf_counter() - start < seconds:
        for network in designs:
            trainer.train(network, Recipe(1, 32), seed=1)
            images += 1600
    print(images / (time.perf_counter() - start))


def together(num: int, threads: int) -> float:
    program = [sys.executable, __file__, "work", str(threads), str(SECONDS)]
    running = [subprocess.Popen(program, stdout=subprocess.PIPE, text=True) for _ in range(num)]
    return sum(float(each.communicate()[0]) for each in running)


def processes(_: Trainer) -> list[dict]:
    two, threads = [], []
    for _ in range(3):
        one = together(1, 1)
        two.append(together(2, 1) / one)
        threads.append(together(1, 2) / one)
    return [
        about("two processes of one thread over one", "all", two),
        about("one process of two threads over one", "all", threads),
    ]


def compiled(trainer: Trainer) -> list[dict]:
    """One body of each family, compiled by itself: how long that takes, and how much quicker steps are then."""
    rows = []
    for family, network in networks().items():
        batches = prepared(trainer, network.image_size, torch.channels_last)
        plain, optimizer = fresh(network, torch.channels_last)
        quick, other = fresh(network, torch.channels_last)
        for stage in quick.stages:
            stage.body.compile()
        start = time.perf_counter()
        bare(quick, batches[:2], other)
        seconds = time.perf_counter() - start
        ratios = [bare(plain, batches, optimizer) / bare(quick, batches, other) for _ in range(ROUNDS)]
        rows.append(about("compiled bodies over eager", family, ratios) | {"compile_seconds": seconds})
        print(f"{seconds:.0f} s to compile", flush=True)
    return rows


def make_trainer(threads: int) -> Trainer:
    torch.set_num_threads(threads)
    return Trainer(open_source("synthetic").load(Loading(32)), torch.device("cpu"), threads=threads)


PARTS = {"loop": loop, "layout": layout, "processes": processes, "compile": compiled}


def main() -> None:
    if sys.argv[1:2] == ["work"]:
        work(int(sys.argv[2]), float(sys.argv[3]))
        return
    file = HERE / "throughput.csv"
    trainer = make_trainer(1)
    print(f"matrix product {peak():.0f} GFLOP/s")
    for name in sys.argv[1:] or PARTS:
        rows = PARTS[name](trainer)
        earlier = list(csv.DictReader(file.open())) if file.exists() else []
        kept = [row for row in earlier if row["what"] not in {row["what"] for row in rows}]
        columns = ["what", "family", "ratio", "low", "high", "gflops", "share_of_peak", "compile_seconds"]
        with file.open("w", newline="") as out:
            writer = csv.DictWriter(out, columns)
            writer.writeheader()
            for row in kept + rows:
                writer.writerow({k: round(v, 3) if isinstance(v, float) else v for k, v in row.items()})


if __name__ == "__main__":
    main()
