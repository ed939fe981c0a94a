"""A search that is killed again and again: run by test_faults, as children of a process that has imported everything.

python murders.py SPACE NPZ FOLDER KILLS
"""

from __future__ import annotations

import itertools
import os
import random
import signal
import sqlite3
import sys
import time
import traceback
from contextlib import closing
from pathlib import Path

import sklearn.gaussian_process  # noqa: F401 (the search imports it when it needs it, each time)
import sqlalchemy  # noqa: F401
from fakes import CountingTimer
from rich.console import Console

import hybridnas.study.cost_aware  # noqa: F401
import hybridnas.timing
from hybridnas import SearchConfig, SearchSpace, run_search
from hybridnas.cost.predict import Counter, Predictor
from hybridnas.cost.table import Table
from hybridnas.tabling import fill_space

TRIALS = 12


def make_timer(target: str = "cpu", **_: object) -> CountingTimer:
    return CountingTimer(target)


def search(config: SearchConfig, *, resume: bool) -> int:
    """In a child: its process number."""
    child = os.fork()
    if child:
        return child
    try:
        run_search(config, resume=resume)
        os._exit(0)
    except BaseException:
        traceback.print_exc()
        os._exit(1)


def finished(folder: Path) -> set[tuple[str, str]]:
    """Rungs and records of the trials in a run's studies, seconds and all; none of them is running."""
    query = """
        SELECT study_name, state, value_json FROM trials JOIN studies USING (study_id)
        LEFT JOIN trial_user_attributes AS a ON a.trial_id = trials.trial_id AND a.key = 'record'
    """
    with closing(sqlite3.connect(folder / "study.db")) as database:
        try:
            found = database.execute(query).fetchall()
        except sqlite3.OperationalError as error:  # killed before its tables were made
            assert "no such table" in str(error)
            return set()
    assert all(state != "RUNNING" and record for _, state, record in found), found
    return {(rung, record) for rung, _, record in found}


def main() -> None:
    space, data, folder, kills = sys.argv[1], sys.argv[2], Path(sys.argv[3]), int(sys.argv[4])
    hybridnas.timing.Timer = make_timer  # type: ignore[attr-defined, misc, assignment]
    with closing(Table()) as table:
        fill_space(Predictor(Counter(table, 3), make_timer()), SearchSpace.load(space), Console(quiet=True))

    def config(name: str) -> SearchConfig:
        return SearchConfig(
            space=space, data=data, epochs=3, trials=TRIALS, frozen_table=True, out=folder / name, threads=1, seed=5
        )

    assert os.waitpid(search(config("whole"), resume=False), 0)[1] == 0
    seed = int(time.time())
    print("seed", seed, flush=True)
    generator = random.Random(seed)
    left = kills
    for number in itertools.count():
        run = folder / f"killed-{number}"
        kept: set[tuple[str, str]] = set()
        status = -1
        while status:  # it ends when it ends before it is killed
            child = search(config(run.name), resume=(run / "config.json").exists())
            if left:
                time.sleep(generator.uniform(0.0, 1.5))
                os.kill(child, signal.SIGKILL)
            status = os.waitpid(child, 0)[1]
            assert status == 0 or os.WIFSIGNALED(status), status
            left -= bool(status)
            if (run / "study.db").exists():
                now = finished(run)
                assert kept <= now, "a finished trial was lost"
                kept = now
        print("ended", run.name, flush=True)
        if not left:
            break


if __name__ == "__main__":
    main()
