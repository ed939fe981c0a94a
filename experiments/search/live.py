"""Equal time on one core for hybridnas, random search behind its gate, and the plain script: whose front covers more?

    python experiments/search/live.py run [METHOD ...] [--cores N]    # goes on where it stopped; appends to live.csv
    python experiments/search/live.py report

Budgets and times are multiples of what a reference network takes: the machine's speed changes, so a search is given the
milliseconds that its budget is just then. Every network that a method trained to the end is timed again by our timer,
in turns with its reference, and its accuracy is that of the method's own short training: the same function, data and
number of epochs for all. A search of hybridnas begins with a table that has no part, only the machine's speed, as any
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
from multiprocessing import Pool, Queue
from pathlib import Path

import numpy as np
import pandas as pd

from hybridnas import Architecture, Run, build
from hybridnas.cost.latency import Timer
from hybridnas.cost.predict import context_of
from hybridnas.cost.table import Table
from hybridnas.pareto import front, hypervolume

HERE = Path(__file__).parent
FILE = HERE / "live.csv"
METHODS = ("hybridnas", "random", "plain tpe", "plain nsga2")
BUDGETS, SEEDS, SECONDS = (0.6, 0.8, 1.1), (0, 1, 2), 200.0
FLOOR = 1 / 16  # chance
UNITS: list[float] = []  # the reference's milliseconds before each search of this process: a slow moment is waited out


def searched(method: str, budget_ms: float, seed: int, folder: Path) -> pd.DataFrame:
    """The networks that a method trained to the end: ended (seconds), accuracy, latency_ms (its own), architecture."""
    common = ["--budget-ms", str(budget_ms), "--seed", str(seed), "--time", str(SECONDS)]
    if method.startswith("plain"):
        out = folder / "plain.csv"
        script = [str(HERE / "plain.py"), "--sampler", method.split()[1], "--out", str(out)]
        subprocess.run([sys.executable, *script, *common], check=True, stdout=subprocess.DEVNULL)
        return pd.read_csv(out)
    sampler = ["--baselines", "none"] + ([] if method == "hybridnas" else ["--sampler", "random", "--no-rungs"])
    run = folder / "run"
    ended = subprocess.run(
        [sys.executable, "-m", "hybridnas.search", *common, "--threads", "1", "--out", str(run), *sampler],
        check=False,
        stdout=subprocess.DEVNULL,
        env=os.environ | {"HYBRIDNAS_CACHE": str(folder / "cache")},
    )
    if ended.returncode not in (0, 2, 3):  # 2: nothing ended within the time; 3: nothing holds the budget
        raise RuntimeError(f"{method}, {budget_ms} ms, seed {seed} ended with {ended.returncode}")
    trials = Run.load(run).trials
    trials = trials[trials.status == "complete"]
    return trials.rename(columns={"latency_ms_p50": "latency_ms"})[["ended", "accuracy", "latency_ms", "architecture"]]


def searched_and_timed(task: tuple[float, int, str]) -> list[list]:
    budget, seed, method = task
    timer = Timer("cpu", threads=1, reference="small")
    timer.read_on(min(UNITS, default=timer.reference_ms))
    unit = timer.reference_ms
    UNITS.append(unit)
    with tempfile.TemporaryDirectory() as folder:
        with closing(Table(Path(folder) / "cache" / "cost.sqlite")) as table:
            table.add_machine(context_of(timer), timer.environment)
        found = searched(method, round(budget * unit, 4), seed, Path(folder))
    rows = []
    for row in found.itertuples():
        network = Architecture.from_json(row.architecture)
        timed = timer.measure(build(network, 16).deploy(), network.image_size, seconds=0.5).p50 / unit
        about = [row.ended, row.accuracy, round(row.latency_ms / unit, 4), round(timed, 4), network.families]
        rows.append([method, budget, seed, *about])
    print(f"{time.strftime('%H:%M:%S')} {method} {budget} {seed}: {len(rows)}, {unit:.2f} ms", flush=True)
    return rows or [[method, budget, seed, *[""] * 5]]


def pin(cores: Queue) -> None:
    """This process and all that it starts have one core, and a temporary folder: locks on a device lie there."""
    os.sched_setaffinity(0, {cores.get()})
    os.environ["TMPDIR"] = tempfile.tempdir = tempfile.mkdtemp()


def run(methods: list[str], num_cores: int) -> None:
    if not FILE.exists():
        FILE.write_text("method,budget,seed,ended,accuracy,own,timed,families\n")
    done = FILE.read_text()
    tasks = [
        (budget, seed, method)
        for seed, budget, method in itertools.product(SEEDS, BUDGETS, methods)
        if f"\n{method},{budget},{seed}," not in done
    ]
    cores = Queue()
    for core in sorted(os.sched_getaffinity(0)):
        cores.put(core)
    with Pool(min(num_cores, cores.qsize()), pin, (cores,)) as pool:
        for rows in pool.imap_unordered(searched_and_timed, tasks):
            with FILE.open("a", newline="") as out:
                csv.writer(out).writerows(rows)


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


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("what", choices=["run", "report"])
    parser.add_argument("methods", nargs="*", default=METHODS)
    parser.add_argument("--cores", type=int, default=1)
    arguments = parser.parse_args()
    run(arguments.methods, arguments.cores) if arguments.what == "run" else report()
