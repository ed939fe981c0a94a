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


def seconds(checkout: Path, arguments: list[str], code: int, folder: str) -> float:
    begun = time.perf_counter()
    command = subprocess.Popen(
        [sys.executable, "-m", *arguments],
        env=os.environ | {"PYTHONPATH": str(checkout)},
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    assert command.wait() == code, command.args
    ended = time.perf_counter()
    command.communicate()  # ends when what it left running has ended, too, which is not to run beside the next
    return round(ended - begun, 2)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("other", type=Path)
    parser.add_argument("run", type=Path)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    commands = {
        "profile": (0, ["hybridnas.profile", "levit_128", "--no-latency"]),
        "search, data that are not there": (2, ["hybridnas.search", "--budget-ms", "10", "--data", "nowhere"]),
        "report": (0, ["hybridnas.report", str(arguments.run.absolute())]),
    }
    rows = []
    with tempfile.TemporaryDirectory() as folder, OUT.open("w") as out:
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow(["command", "round", "other_s", "here_s"])
        for turn in range(arguments.rounds):
            for name, (code, command) in commands.items():
                checkouts = arguments.other.absolute(), ROOT
                row = [name, turn, *(seconds(each, command, code, folder) for each in checkouts)]
                rows.append(row)
                writer.writerow(row)
                out.flush()
    table = pd.DataFrame(rows, columns=["command", "round", "other", "here"])
    table["ratio"] = table.other / table.here
    print(table.groupby("command")[["other", "here", "ratio"]].agg(["median", "min", "max"]).round(2).to_markdown())


if __name__ == "__main__":
    main()
