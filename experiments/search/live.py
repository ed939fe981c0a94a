"""Equal time on one core for hybridnas, random search behind its gate, and the plain script: whose front covers more?

    python experiments/search/live.py run [METHOD ...] [--seeds N ...] [--cores N] [--budgets X ...] [--seconds S]
                                             [--reference-ms MS]
    python experiments/search/live.py confirm [--seeds N ...] [--cores N] [--seconds S]
    python experiments/search/live.py report [--seconds S]

It goes on where it stopped; rows are appended to live.csv, picks.csv and confirmed.csv, or, for searches of other than
200 s, to live_S.csv and so on.

Budgets and times are multiples of what a reference network takes: the machine's speed changes, so a search is given the
milliseconds that its budget is just then. Every network that a method trained to the end is timed again by our timer,
in turns with its reference, and its accuracy is that of the method's own short training: the same function, data and
number of epochs for all. What a method hands over, of what held its budget as it timed it the most accurate or, of
hybridnas, the winner, is confirmed for all in one way: trained anew for twice the epochs with two seeds that no search
had. A search of hybridnas begins with a table that has no part, only the machine's speed, as any
but the first knows it: where a neighbour slows the machine just then, its budget would be another than the others'.
Of several cores each search has one.
"""

import argparse
import csv
import itertools
import os
import subprocess
import sys
import tempfile
import time
from contextlib import closing
from multiprocessing import Queue
from multiprocessing.pool import Pool
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from hybridnas import Architecture, Run, build
from hybridnas.cost.latency import Timer
from hybridnas.cost.predict import context_of
from hybridnas.cost.table import Table
from hybridnas.data.loading import Loading
from hybridnas.data.sources import open_source
from hybridnas.pareto import front, hypervolume
from hybridnas.proxy.training import Recipe, Trainer

HERE = Path(__file__).parent
FILE, PICKS, CONFIRMED = HERE / "live.csv", HERE / "picks.csv", HERE / "confirmed.csv"
SWITCHES = {
    "random": ["--sampler", "random", "--no-rungs"],
    "hybridnas no rungs": ["--no-rungs"],
    "hybridnas accuracy": ["--objective", "accuracy"],
    "hybridnas accuracy no rungs": ["--objective", "accuracy", "--no-rungs"],
}
METHODS = ("hybridnas", "plain tpe", "plain nsga2", *SWITCHES)
BUDGETS, SEEDS, SECONDS = (0.6, 0.8, 1.1), (0, 1, 2), 200.0
FLOOR = 1 / 16  # chance
CONFIRMING_SEEDS, EPOCHS = (101, 102), 6
UNITS: list[float] = []  # the reference's milliseconds before each search of this process: a slow moment is waited out


def searched(method: str, budget_ms: float, seed: int, folder: Path) -> tuple[pd.DataFrame, str, int, int]:
    """What a method trained to the end, its pick, how many it began to train, and of these how many it found over.

    Of each network when it ended (seconds), its accuracy, latency_ms (the method's own) and architecture.
    """
    common = ["--budget-ms", str(budget_ms), "--seed", str(seed), "--time", str(SECONDS)]
    if method.startswith("plain"):
        out = folder / "plain.csv"
        script = [str(HERE / "plain.py"), "--sampler", method.split()[1], "--out", str(out)]
        subprocess.run([sys.executable, *script, *common], check=True, stdout=subprocess.DEVNULL)
        rows = pd.read_csv(out)
        pick = rows.architecture[rows.accuracy.idxmax()] if len(rows) else ""
        return rows, pick, len(rows), 0
    sampler = ["--baselines", "none", *SWITCHES.get(method, [])]
    run = folder / "run"
    ended = subprocess.run(
        [sys.executable, "-m", "hybridnas.search", *common, "--threads", "1", "--out", str(run), *sampler],
        check=False,
        stdout=subprocess.DEVNULL,
        env=os.environ | {"HYBRIDNAS_CACHE": str(folder / "cache")},
    )
    if ended.returncode not in (0, 2, 3):  # 2: nothing ended within the time; 3: nothing holds the budget
        raise RuntimeError(f"{method}, {budget_ms} ms, seed {seed} ended with {ended.returncode}")
    ran = Run.load(run)
    trials = ran.trials.rename(columns={"latency_ms_p50": "latency_ms"})
    begun = trials[trials.accuracy.notna()]
    pick = trials.architecture[trials.number == ran.best.number].item() if ended.returncode == 0 else ""
    rows = begun[begun.status == "complete"][["ended", "accuracy", "latency_ms", "architecture"]]
    return rows, pick, len(begun), int((begun.status == "infeasible").sum())


def searched_and_timed(task: tuple[float, int, str]) -> tuple[list[list], list]:
    budget, seed, method = task
    timer = Timer("cpu", threads=1, reference="small")
    timer.read_on(min(UNITS, default=timer.reference_ms))
    unit = timer.reference_ms
    UNITS.append(unit)
    with tempfile.TemporaryDirectory() as folder:
        with closing(Table(Path(folder) / "cache" / "cost.sqlite")) as table:
            table.add_machine(context_of(timer), timer.environment)
        found, pick, begun, over = searched(method, round(budget * unit, 4), seed, Path(folder))

    def timed(network: Architecture, seconds: float) -> float:
        return round(timer.measure(build(network, 16).deploy(), network.image_size, seconds=seconds).p50 / unit, 4)

    rows = []
    for row in found.itertuples():
        network = Architecture.from_json(row.architecture)
        about = [row.ended, row.accuracy, round(row.latency_ms / unit, 4), timed(network, 0.5), network.families]
        rows.append([method, budget, seed, *about])
    picked_ms = timed(Architecture.from_json(pick), 2.0) if pick else ""
    print(f"{time.strftime('%H:%M:%S')} {method} {budget} {seed}: {len(rows)}, {unit:.2f} ms", flush=True)
    return rows or [[method, budget, seed, *[""] * 5]], [method, budget, seed, begun, over, picked_ms, pick]


def confirmed(task: tuple[str, float, int, str, int]) -> list:
    *which, seed, design, training_seed = task
    size = Architecture.from_json(design).image_size
    dataset = open_source("synthetic").load(Loading(size, seed, 4000))
    trainer = Trainer(dataset, torch.device("cpu"), threads=1)
    result = trainer.train(Architecture.from_json(design), Recipe(EPOCHS), seed=training_seed)
    return [*which, seed, training_seed, round(result.accuracy, 4)]


def pin(cores: Queue) -> None:
    """This process and all that it starts have one core, and a temporary folder: locks on a device lie there."""
    os.sched_setaffinity(0, {cores.get()})
    os.environ["TMPDIR"] = tempfile.tempdir = tempfile.mkdtemp()


def run(methods: list[str], seeds: list[int], num_cores: int) -> None:
    done = begun(FILE, "method,budget,seed,ended,accuracy,own,timed,families")
    begun(PICKS, "method,budget,seed,begun,over,timed,architecture")
    tasks = [
        (budget, seed, method)
        for seed, budget, method in itertools.product(seeds, BUDGETS, methods)
        if f"\n{method},{budget},{seed}," not in done
    ]
    with pinned(num_cores) as pool:
        for rows, pick in pool.imap_unordered(searched_and_timed, tasks):
            append(FILE, rows)
            append(PICKS, [pick])


def confirm(seeds: list[int], num_cores: int) -> None:
    done = begun(CONFIRMED, "method,budget,seed,training_seed,accuracy")
    picks = pd.read_csv(PICKS).dropna()
    picks = picks[picks.seed.isin(seeds)]
    tasks = [
        (row.method, row.budget, row.seed, row.architecture, training_seed)
        for row, training_seed in itertools.product(picks.itertuples(), CONFIRMING_SEEDS)
        if f"\n{row.method},{row.budget},{row.seed},{training_seed}," not in done
    ]
    with pinned(num_cores) as pool:
        for row in pool.imap_unordered(confirmed, tasks):
            append(CONFIRMED, [row])


def begun(file: Path, header: str) -> str:
    if not file.exists():
        file.write_text(header + "\n")
    return file.read_text()


def append(file: Path, rows: list[list]) -> None:
    with file.open("a", newline="") as out:
        csv.writer(out).writerows(rows)


def pinned(num_cores: int) -> Pool:
    cores = Queue()
    for core in sorted(os.sched_getaffinity(0)):
        cores.put(core)
    return Pool(min(num_cores, cores.qsize()), pin, (cores,))


def covered(rows: pd.DataFrame, budget: float) -> float:
    held = rows[rows.timed <= budget]
    return hypervolume((held.accuracy - FLOOR).tolist(), held.timed.tolist(), worst_cost=budget)


def report() -> None:
    rows = pd.read_csv(FILE)
    lines = []
    for (budget, seed), group in rows.groupby(["budget", "seed"]):
        final = {method: covered(part, budget) for method, part in group.groupby("method")}
        for method, part in group.groupby("method"):
            part = part.dropna()
            best = part.iloc[front(part.accuracy.tolist(), part.own.tolist())]
            line = {
                "budget": budget,
                "seed": seed,
                "method": method,
                "trained": part.accuracy.count(),
                "covered": final[method],
                "best": part[part.timed <= budget].accuracy.max(),
                "over": int((best.timed > budget).sum()),
            }
            for other in final:
                times = sorted(part.ended)
                reached = next((t for t in times if covered(part[part.ended <= t], budget) >= final[other]), np.inf)
                line[f"time to {other}"] = reached / SECONDS
            lines.append(line)
    table = pd.DataFrame(lines)
    print(table.round(3).to_markdown(index=False))
    print(table.groupby(["budget", "method"]).mean(numeric_only=True).round(3).to_markdown())
    print(table.groupby("method").mean(numeric_only=True).round(3).to_markdown())
    picks = pd.read_csv(PICKS).drop(columns="architecture")
    accuracies = pd.read_csv(CONFIRMED).groupby(["method", "budget", "seed"]).accuracy.mean().reset_index()
    print(picks.merge(accuracies, how="left").round(3).to_markdown(index=False))


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("what", choices=["run", "confirm", "report"])
    parser.add_argument("methods", nargs="*", default=METHODS)
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS)
    parser.add_argument("--cores", type=int, default=1)
    parser.add_argument("--budgets", type=float, nargs="+", default=BUDGETS)
    parser.add_argument("--seconds", type=float, default=SECONDS)
    parser.add_argument("--reference-ms", type=float, help="as it was read before: a slow moment at the beginning, too")
    arguments = parser.parse_args()
    if arguments.seconds != SECONDS:
        SECONDS = arguments.seconds
        FILE, PICKS, CONFIRMED = (path.with_stem(f"{path.stem}_{SECONDS:g}") for path in (FILE, PICKS, CONFIRMED))
    BUDGETS = tuple(arguments.budgets)
    if arguments.reference_ms:
        UNITS.append(arguments.reference_ms)
    if arguments.what == "run":
        run(arguments.methods, arguments.seeds, arguments.cores)
    elif arguments.what == "confirm":
        confirm(arguments.seeds, arguments.cores)
    else:
        report()
