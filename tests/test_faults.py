"""What may happen to a run from outside: nothing that finished is lost, and the run ends."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path

import murders
import pandas as pd
import psutil
import pytest
from processes import SECONDS, Warm, draw_slowly, wait_for_rows, wait_until
from rich.console import Console
from safetensors.numpy import load_file

from hybridnas import Run, SearchConfig, SearchSpace, run_search
from hybridnas.cost.predict import Counter, Predictor
from hybridnas.cost.table import Table
from hybridnas.errors import BudgetError, ConfigError, RunError, UserError
from hybridnas.locks import owned
from hybridnas.study.run import free_folder, new_folder
from hybridnas.study.storage import Storage
from hybridnas.tabling import fill_space

COLUMNS = ["number", "key", "design", "rung", "status", "reason", "accuracy", "worst_latency", "seed"]


def test_killed_at_random_moments_it_ends_with_the_same_trials(tmp_path, space_file, npz_file):
    """Twenty times, in one run folder after the other; murders.py looks after each kill that no trial was lost."""
    command = [sys.executable, murders.__file__, space_file, npz_file, tmp_path, 20]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([*map(str, command)], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    runs = sorted(tmp_path.glob("killed-*"))
    assert done.stdout.count("ended killed-") == len(runs) > 0
    whole = pd.read_csv(tmp_path / "whole" / "trials.csv")[COLUMNS]
    assert len(whole) >= murders.TRIALS and (whole.status == "complete").sum() >= 4
    for run in runs:
        pd.testing.assert_frame_equal(pd.read_csv(run / "trials.csv")[COLUMNS], whole, check_exact=True)
        assert not [path for path in run.rglob(".*") if path.is_file()]
        assert (run / "best" / "weights.safetensors").is_file()


@pytest.fixture(scope="module")
def finished(tmp_path_factory, space_file, npz_file) -> Path:
    """A run that ended, made without a clock."""
    folder = tmp_path_factory.mktemp("finished") / "run"
    config = SearchConfig(space=str(space_file), data=str(npz_file), epochs=1, trials=6, threads=1, baselines="none")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("hybridnas.timing.Timer", murders.make_timer)
        run_search(config.model_copy(update={"out": folder}))
    return folder


FILES = ["config.json", "space.yaml", "designs.json", "environment.json", "study.db", "trials.csv", "result.json"]


@pytest.mark.parametrize("torn", [*FILES, "pareto.csv", "best/architecture.json", "best/weights.safetensors"])
@pytest.mark.parametrize("share", [0.0, 0.6])
def test_a_torn_file_is_written_anew_or_said(finished, tmp_path, monkeypatch, torn, share):
    folder = tmp_path / "run"
    shutil.copytree(finished, folder)
    content = (folder / torn).read_bytes()
    (folder / torn).write_bytes(content[: int(share * len(content))])
    monkeypatch.setattr("hybridnas.timing.Timer", murders.make_timer)
    try:
        run_search(SearchConfig(out=folder, trials=7), resume=True)
    except UserError as error:
        assert torn in ("config.json", "space.yaml", "designs.json", "environment.json", "study.db")
        assert str(folder) in str(error) and "\n" not in str(error)
        assert (folder / "trials.csv").read_bytes() == (finished / "trials.csv").read_bytes()
        return
    assert torn not in ("config.json", "environment.json", "designs.json")
    before, after = (pd.read_csv(each / "trials.csv") for each in (finished, folder))
    assert torn != "study.db"
    pd.testing.assert_frame_equal(after.iloc[: len(before)], before, check_dtype=False)
    Run.load(folder).best_model()


def content_of(folder: Path) -> dict[str, object]:
    """What is promised of a run that ended, but what says when or where; safetensors has no order of its own."""
    weights = {name: array.tobytes() for name, array in load_file(folder / "best" / "weights.safetensors").items()}
    files = [folder / "pareto.csv", *(folder / "best").iterdir()]
    return {path.name: path.read_bytes() for path in files} | {"weights.safetensors": weights}


BEST = ["architecture.json", "card.md", "labels.json", "model.py", "preprocessing.json", "weights.safetensors"]


@pytest.mark.parametrize(
    ("torn", "share"),
    [("pareto.csv", None), ("pareto.csv", 0.6), ("result.json", None), ("result.json", 0.6), ("best/card.md", None)]
    + [(f"best/{name}", 0.6) for name in BEST],
)
def test_a_run_that_ended_is_made_whole_by_going_on_with_nothing_more_to_do(
    finished, tmp_path, monkeypatch, torn, share
):
    folder = shutil.copytree(finished, tmp_path / "run")
    content = (folder / torn).read_bytes()
    (folder / torn).unlink()
    if share is not None:
        (folder / torn).write_bytes(content[: int(share * len(content))])
    monkeypatch.setattr("hybridnas.timing.Timer", murders.make_timer)
    run = run_search(SearchConfig(out=folder), resume=True)
    assert content_of(folder) == content_of(finished) and sorted(content_of(folder)) == sorted([*BEST, "pareto.csv"])
    assert run.result["winner"] == Run.load(finished).result["winner"]
    assert json.loads((folder / "result.json").read_text()).keys() >= Run.load(finished).result.keys()


def test_killed_before_all_was_written_the_end_comes_again(finished, tmp_path, monkeypatch):
    monkeypatch.setattr("hybridnas.timing.Timer", murders.make_timer)

    def killed(*given):
        raise KeyboardInterrupt

    for last in ("hybridnas.finishing.write_card", "hybridnas.finishing.write_atomic"):
        folder = shutil.copytree(finished, tmp_path / last)
        (folder / "result.json").unlink()
        shutil.rmtree(folder / "best")
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(last, killed)
            with pytest.raises(KeyboardInterrupt):
                run_search(SearchConfig(out=folder), resume=True)
        run_search(SearchConfig(out=folder), resume=True)
        assert content_of(folder) == content_of(finished)


def test_without_its_study_a_run_does_not_begin_anew(finished, tmp_path, monkeypatch):
    folder = shutil.copytree(finished, tmp_path / "run")
    (folder / "study.db").unlink()
    monkeypatch.setattr("hybridnas.timing.Timer", murders.make_timer)
    with pytest.raises(RunError, match=r"has trials in trials.csv and none in .*study.db: put back what had them"):
        run_search(SearchConfig(out=folder, trials=7), resume=True)
    assert (folder / "trials.csv").read_bytes() == (finished / "trials.csv").read_bytes()
    assert Run.load(folder).best_model()


def test_killed_while_it_confirmed_it_confirms_when_it_goes_on(finished, tmp_path, monkeypatch):
    folder = shutil.copytree(finished, tmp_path / "run")
    monkeypatch.setattr("hybridnas.timing.Timer", murders.make_timer)

    def killed(*given):
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("hybridnas.finishing.confirm", killed)
        with pytest.raises(KeyboardInterrupt):
            run_search(SearchConfig(out=folder, trials=8), resume=True)
    then = Run.load(folder).result
    assert then["covers"][0] == 6
    now = run_search(SearchConfig(out=folder), resume=True)
    assert now.result["covers"][0] == len(now.trials) == 8
    assert then["winner"] == Run.load(finished).result["winner"]


def test_a_winner_stays_where_none_that_is_timed_anew_holds_the_budget(finished, tmp_path, monkeypatch):
    folder = shutil.copytree(finished, tmp_path / "run")
    monkeypatch.setattr("hybridnas.timing.Timer", murders.make_timer)

    def none_holds(*given):
        raise BudgetError("None holds it.")

    monkeypatch.setattr("hybridnas.finishing.confirm", none_holds)
    with pytest.raises(BudgetError):
        run_search(SearchConfig(out=folder, trials=7), resume=True)
    for name in ("architecture.json", "weights.safetensors"):
        assert (folder / "best" / name).read_bytes() == (finished / "best" / name).read_bytes()
    assert not (folder / ".best").exists()


def test_a_second_search_in_one_folder_is_refused(finished, tmp_path, space_file, npz_file):
    with owned(finished), pytest.raises(RunError, match="is in use: another process is searching or training there"):
        run_search(SearchConfig(out=finished, trials=7), resume=True)
    folder = tmp_path / "new"
    with owned(folder), pytest.raises(RunError, match="is in use"):
        run_search(SearchConfig(space=str(space_file), data=str(npz_file), trials=1, threads=1, out=folder))
    assert not [*folder.iterdir()]


def test_a_frozen_table_that_is_torn_is_said(tmp_path, monkeypatch, space_file, npz_file):
    monkeypatch.setenv("HYBRIDNAS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("hybridnas.timing.Timer", murders.make_timer)
    with closing(Table()) as table:
        fill_space(
            Predictor(Counter(table, 3), murders.make_timer()), SearchSpace.load(space_file), Console(quiet=True)
        )
    config = SearchConfig(
        space=str(space_file), data=str(npz_file), epochs=1, trials=2, threads=1, frozen_table=True, baselines="none"
    )
    folder = tmp_path / "run"
    run_search(config.model_copy(update={"out": folder}))
    content = (folder / "table.sqlite").read_bytes()
    for share in (0.0, 0.6):
        (folder / "table.sqlite").write_bytes(content[: int(share * len(content))])
        with pytest.raises(UserError) as caught:
            run_search(SearchConfig(out=folder, trials=3), resume=True)
        assert "\n" not in str(caught.value) and "table" in str(caught.value)
    (folder / "table.sqlite").write_bytes(content)
    assert len(run_search(SearchConfig(out=folder, trials=3), resume=True).trials) >= 3


def test_a_clock_that_steps_back(tmp_path, monkeypatch, space_file, npz_file):
    clock, calls = time.time, []
    monkeypatch.setattr("time.time", lambda: clock() - 3600 * len(calls))
    monkeypatch.setattr("hybridnas.timing.Timer", murders.make_timer)
    monkeypatch.setattr(Storage, "add", lambda *given, add=Storage.add: (calls.append(0), add(*given)))
    config = SearchConfig(
        space=str(space_file), data=str(npz_file), epochs=1, trials=4, threads=1, time=600, baselines="none"
    )
    run = run_search(config.model_copy(update={"out": tmp_path / "run"}))
    assert len(calls) >= 4 and (run.trials.status == "complete").sum() == 4
    assert run.trials.ended.is_monotonic_increasing and run.trials.seconds.min() >= 0


def test_a_run_named_by_a_time_that_was_before(tmp_path):
    first = free_folder(None, tmp_path)
    for second in range(3):
        later = datetime.now() + timedelta(seconds=second)
        (tmp_path / f"{later:%Y%m%d-%H%M%S}").mkdir()
    assert free_folder(None, tmp_path).name == f"{datetime.now():%Y%m%d-%H%M%S}a" and first.parent == tmp_path


def test_runs_begun_in_the_same_second_get_a_folder_each(tmp_path):
    with ThreadPoolExecutor(8) as threads:
        folders = [*threads.map(new_folder, [tmp_path / "runs"] * 8)]
    assert len({*folders}) == 8 and all(folder.is_dir() for folder in folders)


def test_a_name_that_another_search_took_meanwhile(tmp_path, monkeypatch, space_file, npz_file):
    from hybridnas import pipeline

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("hybridnas.timing.Timer", murders.make_timer)
    named = []

    def open_run(config, *, resume, really=pipeline.open_run):
        found, folder = really(config, resume=resume)
        folder.mkdir(parents=True)
        named.append(folder)
        return found, folder

    monkeypatch.setattr(pipeline, "open_run", open_run)
    config = SearchConfig(space=str(space_file), data=str(npz_file), epochs=1, trials=1, threads=1, baselines="none")
    run = run_search(config)
    assert run.folder.parent == named[0].parent and run.folder != named[0] and not [*named[0].iterdir()]


@pytest.fixture
def with_workers(tmp_path, space_file, npz_file) -> tuple[object, ...]:
    """A search by two workers."""
    given = ("--space", space_file, "--data", npz_file, "--epochs", 4, "--trials", 8, "--threads", 1, "--workers", 2)
    return "search", *given, "--baselines", "none", "--out", tmp_path / "run"


def test_workers_and_then_their_driver_are_killed(tmp_path, with_workers):
    table = tmp_path / "run" / "trials.csv"
    process = Warm(*with_workers)
    wait_for_rows(table, 1)
    for victim in workers_of(process):
        victim.kill()
    wait_for_rows(table, 4)
    heirs = workers_of(process)
    process.kill()
    process.communicate()
    _, alive = psutil.wait_procs(heirs, timeout=10)
    assert len(heirs) == 2 and not alive
    before = pd.read_csv(table)
    assert (before.status != "failed").all()
    process = Warm(*with_workers, "--resume")
    _, err = process.communicate(timeout=SECONDS)
    assert process.returncode == 0, err
    after = Run.load(tmp_path / "run").trials
    assert {*before.key} <= {*after.key} and after.key.nunique() == len(after) == 8


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_or_sigterm_once_ends_it_cleanly(tmp_path, with_workers, sent):
    """Sent to the whole group, as a terminal and SLURM do."""
    process = Warm(*with_workers)
    wait_for_rows(tmp_path / "run" / "trials.csv", 1)
    workers, begun = workers_of(process), time.monotonic()
    os.killpg(process.pid, sent)
    _, err = process.communicate(timeout=SECONDS)
    assert time.monotonic() - begun < 10 and process.returncode in (130, -sent)  # which is promised
    assert "Traceback" not in err
    _, alive = psutil.wait_procs(workers, timeout=10)
    assert not alive
    assert (tmp_path / "run" / "pareto.png").is_file()


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_or_sigterm_twice_ends_it_at_once(tmp_path, with_workers, sent):
    """In the middle of drawing, which would take long."""
    process = Warm(*with_workers, prepare=partial(draw_slowly, tmp_path))
    wait_for_rows(tmp_path / "run" / "trials.csv", 1)
    workers = workers_of(process)
    os.killpg(process.pid, sent)
    wait_until((tmp_path / "drawing").exists)
    os.killpg(process.pid, sent)
    process.communicate(timeout=SECONDS)
    assert process.returncode in (130, -sent)
    _, alive = psutil.wait_procs(workers, timeout=10)
    assert not alive
    assert not (tmp_path / "drawn").exists() and not (tmp_path / "run" / "pareto.png").exists()


def workers_of(process: subprocess.Popen[str] | Warm) -> list[psutil.Process]:
    """Forked off a process that its driver began."""
    (server,) = (each for each in psutil.Process(process.pid).children() if "forkserver" in " ".join(each.cmdline()))
    return server.children()


def test_a_frozen_table_that_lacks_what_is_needed(tmp_path, monkeypatch, space_file, npz_file):
    monkeypatch.setenv("HYBRIDNAS_CACHE", str(tmp_path))
    monkeypatch.setattr("hybridnas.timing.Timer", murders.make_timer)
    config = SearchConfig(
        space=str(space_file), data=str(npz_file), epochs=1, trials=3, threads=1, frozen_table=True, baselines="none"
    )
    with pytest.raises(ConfigError, match="has no times of cpu in this runtime, precision, number of threads"):
        run_search(config.model_copy(update={"out": tmp_path / "a"}))
    run_search(config.model_copy(update={"out": tmp_path / "b", "frozen_table": False, "trials": 1}))
    with pytest.raises(ConfigError, match=r"--frozen-table: the table has no time for .* --num-classes 3`;"):
        run_search(config.model_copy(update={"out": tmp_path / "c"}))
