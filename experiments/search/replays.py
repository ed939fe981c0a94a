"""What each part of the search is worth, on recorded trainings: samplers, rungs, gate and known designs, on and off.

    python experiments/search/replays.py run [--seeds 20] [--sampler NAME ...] [--processes 1] [--trainings 80]
    python experiments/search/replays.py report

It goes on where it stopped; rows are appended to replays.csv.
"""

import argparse
import csv
import itertools
from functools import partial
from multiprocessing import Pool
from pathlib import Path

import pandas as pd
import torch

from hybridnas.config import SAMPLERS
from hybridnas.replaying import LOOKS, mean_margin
from hybridnas.tabular import Recorded, replay

FILE = Path(__file__).parent / "replays.csv"
#: About two networks of five hold it.
BUDGET_MS = 3.4
PARTS = ["rungs", "gate", "seeding"]
#: Without rungs, with the search's, and with a later one.
RUNGS = {"1 4": (1, 4), "2 4": (2, 4), "4": (4,)}
WHOLE = ("1 4", True, True)
#: The whole, one part changed, and all combinations of parts that are off.
SWITCHES = [WHOLE, ("4", True, True), ("2 4", True, True), ("1 4", False, True), ("1 4", True, False)]
SWITCHES += [("4", False, True), ("4", True, False), ("1 4", False, False), ("4", False, False)]


def run(samplers: list[str], seeds: int, processes: int, trainings: int) -> None:
    if not FILE.exists():
        FILE.write_text(",".join(["sampler", *PARTS, "seed", *(f"share_{n}" for n in LOOKS), "ask_ms", "over"]) + "\n")
    done = FILE.read_text()
    tasks = [
        (sampler, *switches, seed)
        for seed, switches, sampler in itertools.product(range(seeds), SWITCHES, samplers)
        if f"\n{sampler},{','.join(map(str, switches))},{seed}," not in done
    ]
    with Pool(processes) as pool:
        for row in pool.imap_unordered(partial(replayed, trainings=trainings), tasks):
            with FILE.open("a", newline="") as out:
                csv.writer(out).writerow(row)


def replayed(task: tuple, trainings: int) -> list:
    torch.set_num_threads(1)
    sampler, rungs, gate, seeding, seed = task
    found = replay(
        Recorded.load(),
        sampler,
        seed=seed,
        trainings=trainings,
        budget_ms=BUDGET_MS,
        rungs=RUNGS[rungs],
        gate=gate,
        seeding=seeding,
    )
    shares = [round(found.share_at(look), 4) if look <= trainings else "" for look in LOOKS]
    return [*task, *shares, round(found.ask_ms, 1), found.over_budget]


def report() -> None:
    rows = pd.read_csv(FILE)
    lines = []
    for key, group in rows.groupby(["sampler", *PARTS], sort=False):
        line = dict(zip(["sampler", *PARTS], key, strict=True))
        for look in LOOKS:
            line[str(look)] = in_points(group[f"share_{look}"])
        lines.append(line | {"ms a proposal": group.ask_ms.mean(), "over": group.over.mean(), "seeds": len(group)})
    print(pd.DataFrame(lines).round(1).to_markdown(index=False))
    whole = rows[(rows[PARTS] == list(WHOLE)).all(axis=1)].set_index(["sampler", "seed"])
    print("\nwhat the whole gains over one part changed, in points of the true front's hypervolume:")
    gains = []
    for part, value in (("rungs", "4"), ("rungs", "2 4"), ("gate", False), ("seeding", False)):
        changed = [value if part == name else kept for name, kept in zip(PARTS, WHOLE, strict=True)]
        off = rows[(rows[PARTS] == changed).all(axis=1)].set_index(["sampler", "seed"])
        for sampler, group in whole.join(off.add_suffix("_off"), how="inner").groupby("sampler"):
            line = {"part": f"{part} {value}", "sampler": sampler}
            for look in LOOKS:
                line[str(look)] = in_points(group[f"share_{look}"] - group[f"share_{look}_off"], "+")
            gains.append(line)
    print(pd.DataFrame(gains).to_markdown(index=False))


def in_points(shares: pd.Series, sign: str = "") -> str:
    """Mean and interval of those that were replayed for so long."""
    shares = shares.dropna()
    mean, margin = mean_margin(shares.tolist()) if len(shares) else (float("nan"), float("nan"))
    return f"{100 * mean:{sign}.1f} +- {100 * margin:.1f}"


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("what", choices=["run", "report"])
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--sampler", nargs="*", default=SAMPLERS)
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--trainings", type=int, default=LOOKS[-1])
    arguments = parser.parse_args()
    if arguments.what == "run":
        run(arguments.sampler, arguments.seeds, arguments.processes, arguments.trainings)
    else:
        report()
