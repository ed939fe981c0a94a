from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import jobs
import psutil
import pytest

from hybridnas import SearchSpace
from hybridnas.errors import DataError, TrainingFailed, WorkerError
from hybridnas.proxy.evaluation import Outcome, Task
from hybridnas.proxy.training import Recipe
from hybridnas.study.workers import Workers

NETWORK = SearchSpace.load("tiny").design(("mbconv", "mbconv", "mbconv", "mbconv"), size=0)


def task(number: int, checkpoint: Path | None = None, seconds_left: float = 60.0) -> Task:
    assert NETWORK
    return Task(number, NETWORK, Recipe(1), 0, 1, checkpoint, seconds_left=seconds_left)


@pytest.fixture(scope="module")
def workers() -> Iterator[Workers]:
    made = Workers(2, jobs.make_worker)
    yield made
    made.close()


def do(workers: Workers, *tasks: Task) -> dict[int, object]:
    """All of them, as many at once as there are places."""
    waiting, found, shares = list(tasks), {}, []
    in_flight = 0
    while waiting or in_flight:
        while waiting and in_flight < workers.num_places:
            workers.submit(waiting.pop(0))
            in_flight += 1
        ended, result = workers.wait(shares.append)
        in_flight -= 1
        found[ended.number] = result
    assert all(0 <= share <= 1 for share in shares)
    return found


def test_two_at_once_by_processes_that_stay(workers):
    pids = workers.processes
    found = do(workers, *map(task, range(6)))
    assert {int(result.accuracies[1]) for result in found.values()} == set(pids) == set(workers.processes)
    assert {result.accuracies[0] for result in found.values()} == {0.0, 1.0}
    spans = [result.accuracies[2:4] for result in found.values()]
    at_once = max(sum(begun < end <= other for begun, other in spans) for _, end in spans)
    assert at_once == 2 and os.getpid() not in pids


def test_a_failed_training_is_a_result(workers):
    found = do(workers, task(90))[90]
    assert isinstance(found, TrainingFailed) and str(found) == "diverged"


def test_a_worker_that_dies_is_replaced_and_its_task_done_once_more(workers, tmp_path):
    before = workers.processes
    found = do(workers, task(92, tmp_path / "begun"), task(1), task(2), task(3))
    assert all(isinstance(result, Outcome) for result in found.values()) and set(found) == {1, 2, 3, 92}
    assert len(set(workers.processes) & set(before)) == 1
    assert found[92].accuracies[4] < 60  # the time that was lost is not given twice


def test_a_task_that_kills_two_workers_has_failed(workers, tmp_path):
    found = do(workers, task(93, tmp_path / "begun"), task(1))
    assert isinstance(found[93], TrainingFailed)
    assert str(found[93]) == "2 worker processes ended at it, the last by SIGKILL, as where memory runs out"
    assert isinstance(found[1], Outcome)
    assert isinstance(do(workers, task(4))[4], Outcome)


def test_an_idle_worker_that_dies_is_replaced(workers):
    os.kill(workers.processes[0], signal.SIGKILL)
    assert len(do(workers, *map(task, range(4)))) == 4


def test_a_worker_that_was_dead_before_did_not_die_of_its_task(workers, tmp_path):
    """The first worker is; the next one ends at the task, which is done once more."""
    victim = psutil.Process(workers.processes[0])
    victim.kill()
    psutil.wait_procs([victim], timeout=10)
    assert isinstance(do(workers, task(92, tmp_path / "begun"))[92], Outcome)


def test_many_that_die_at_once_are_all_replaced():
    made = Workers(5, jobs.make_worker)
    try:
        for pid in made.processes:
            os.kill(pid, signal.SIGKILL)
        assert len(do(made, *map(task, range(6)))) == 6
    finally:
        made.close()


def test_a_defect_is_not_hidden():
    made = Workers(1, jobs.make_worker)
    try:
        made.submit(task(91))
        with pytest.raises(RuntimeError, match="(?s)in a worker process.*jobs.py.*ZeroDivisionError: a defect"):
            made.wait(lambda share: None)
    finally:
        made.close()


def test_workers_that_cannot_begin():
    with pytest.raises(WorkerError, match="4 worker processes in a row .* exit code 3; give fewer --workers"):
        Workers(1, jobs.make_nothing)
    with pytest.raises(DataError, match="the data is gone"):
        Workers(2, jobs.make_complaint)


def test_none_is_left_where_one_cannot_be_started(monkeypatch):
    start, started = Workers._start, []

    def start_one(self, place):
        if place:
            raise OSError("no more processes")
        started.append(start(self, place))
        return started[-1]

    monkeypatch.setattr(Workers, "_start", start_one)
    with pytest.raises(OSError, match="no more processes"):
        Workers(2, jobs.make_worker)
    assert not started[0].process.is_alive()


def test_workers_end_with_their_parent(tmp_path):
    file = tmp_path / "pids"
    parent = subprocess.Popen([sys.executable, jobs.__file__, str(file)], env={**os.environ, "PYTHONPATH": ""})
    end = time.monotonic() + 60
    while not (file.exists() and file.read_text()) and time.monotonic() < end:
        time.sleep(0.05)
    pids = [int(pid) for pid in file.read_text().split()]
    assert len(pids) == 2 and all(map(psutil.pid_exists, pids))
    parent.kill()
    parent.wait()
    end = time.monotonic() + 10
    while any(map(psutil.pid_exists, pids)) and time.monotonic() < end:
        time.sleep(0.05)
    assert not any(map(psutil.pid_exists, pids))
