"""Trials an hour of a real search with one worker and with several, in turns.

    python experiments/scaling/workers.py [ROUNDS [FIRST]]     # seeds FIRST and on; rows appended to workers.csv

Each search is ended when 16 trainings have; counted is from the first that ended to the last, so start-up is left out
and given by itself.
"""

import csv
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pandas as pd

FILE = Path(__file__).parent / "workers.csv"
NUM_TRAININGS = 16
WORKERS = (1, 2)


def measure(workers: int, seed: int) -> tuple[float, float, float]:
    """Trainings an hour, their epochs an hour, and seconds until the first ended."""
    with tempfile.TemporaryDirectory() as folder:
        table = Path(folder) / "run" / "trials.csv"
        start = time.monotonic()
        process = subprocess.Popen(
            [sys.executable, "-m", "hybridnas.search", "--budget-ms", "10", "--threads", "1", "--time", "1h"]
            + ["--workers", str(workers), "--seed", str(seed), "--out", table.parent],
            stdout=subprocess.DEVNULL,
        )
        seen: list[tuple[float, int]] = []
        while len(seen) <= NUM_TRAININGS:
            time.sleep(0.05)
            assert process.poll() is None
            if table.exists():
                found = pd.read_csv(table)
                # After one epoch and after all three: a trial that went on counts twice.
                epochs = found[found.accuracy.notna()].rung.map({0: 1, 1: 3}).sum()
                ended = found.accuracy.notna().sum() + (found.rung == 1).sum()
                if ended > len(seen):
                    seen += [(time.monotonic() - start, int(epochs))] * (ended - len(seen))
        process.send_signal(signal.SIGTERM)
        process.wait()
    span = (seen[-1][0] - seen[0][0]) / 3600
    return (len(seen) - 1) / span, (seen[-1][1] - seen[0][1]) / span, seen[0][0]


def main() -> None:
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 3
    first = int(sys.argv[2]) if len(sys.argv) > 2 else 0
    if not FILE.exists():
        FILE.write_text("round,workers,trainings_an_hour,epochs_an_hour,first_ended_s\n")
    for each in range(first, first + rounds):
        for workers in WORKERS:
            figures = [round(figure, 1) for figure in measure(workers, each)]
            with FILE.open("a", newline="") as out:
                csv.writer(out).writerow([each, workers, *figures])
            print(each, workers, *figures, flush=True)


if __name__ == "__main__":
    main()
