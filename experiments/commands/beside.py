"""How long do commands take, from the shell to the shell, beside those of another checkout?

    python experiments/commands/beside.py OTHER RUN [--rounds N]

OTHER is a checkout of an older commit, RUN a run folder. The two run in turns, in the environment that this is started
in; rows go to beside.csv.
"""

import argparse
import csv
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pandas as pd

ROOT = Path(__file__).parents[2]
OUT = Path(__file__).with_suffix(".csv")


def seconds(checkout: Path, arguments: list[str], folder: str) -> float:
    begun = time.perf_counter()
    subprocess.run(
        [sys.executable, "-m", *arguments],
        env=os.environ | {"PYTHONPATH": str(checkout)},
        cwd=folder,
        capture_output=True,
        check=False,  # a mistake is one of the commands
    )
    return round(time.perf_counter() - begun, 2)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("other", type=Path)
    parser.add_argument("run", type=Path)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    commands = {
        "profile": ["hybridnas.profile", "levit_128", "--no-latency"],
        "search, data that are not there": ["hybridnas.search", "--budget-ms", "10", "--data", "nowhere"],
        "report": ["hybridnas.report", str(arguments.run.absolute())],
    }
    rows = []
    with tempfile.TemporaryDirectory() as folder, OUT.open("w") as out:
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow(["command", "round", "other_s", "here_s"])
        for turn in range(arguments.rounds):
            for name, command in commands.items():
                row = [name, turn, *(seconds(each, command, folder) for each in (arguments.other.absolute(), ROOT))]
                rows.append(row)
                writer.writerow(row)
                out.flush()
    table = pd.DataFrame(rows, columns=["command", "round", "other", "here"])
    table["ratio"] = table.other / table.here
    print(table.groupby("command")[["other", "here", "ratio"]].agg(["median", "min", "max"]).round(2).to_markdown())


if __name__ == "__main__":
    main()
