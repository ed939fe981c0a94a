"""The commands that show runs: from their folders alone, several on one front, and in optuna-dashboard."""

from __future__ import annotations

import builtins
import json
import shutil
import signal
import socket
import sqlite3
import threading
import urllib.request
from collections.abc import Callable
from pathlib import Path

import numpy as np
import optuna
import pandas as pd
import pytest
from folders import write_run
from rich.console import Console

from hybridnas import Run
from hybridnas.cli import exit_code
from hybridnas.dashboard import app as dashboard_app
from hybridnas.errors import NotDrawn, RunError
from hybridnas.pipeline import _draw, _drawn_if_stopped
from hybridnas.report.__main__ import app
from hybridnas.report.figures import FIGURES
from hybridnas.report.runs import compare_runs, runs_figure
from hybridnas.report.tables import front_table, summary
from hybridnas.study.looking import read_only, serve


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Three searches of one kind; the first has a study of its own."""
    parent = tmp_path_factory.mktemp("runs {1}")
    return [write_run(parent / f"_run {n}$ [v2]", trials=14, seed=n, study=n == 0) for n in range(3)]


def copy_of(folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(folder, tmp_path / "copy"))


def said(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """The one sentence with which a command refuses."""
    assert exit_code(app, [*arguments]) == 2
    err = capsys.readouterr().err
    assert err.startswith("hybridnas: ") and err.count("\n") == 1
    return err


def test_several_runs_stand_on_one_front(
    folders: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    some = {name: FIGURES[name] for name in ("importances", "architecture")}  # all are drawn in test_figures
    monkeypatch.setattr("hybridnas.report.figures.FIGURES", some)
    copies = [Path(shutil.copytree(folder, tmp_path / folder.name)) for folder in folders]
    for folder in copies:
        (folder / "study.db").unlink(missing_ok=True)
    assert exit_code(app, [*map(str, copies), "--out", str(tmp_path / "out")]) == 0
    out = capsys.readouterr().out
    assert all(f"│ {folder.name} " in out for folder in copies)
    assert "Runs on one front" in out and "not drawn: importances" in out and out.count("Winner: trial") == 3
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"fronts.png", "fronts.svg", "trials.csv"}
    assert all((folder / "figures" / "architecture.svg").is_file() for folder in copies)
    found = pd.read_csv(tmp_path / "out" / "trials.csv")
    assert set(found.run) == {folder.name for folder in folders}
    for _, row in found.iterrows():
        better = (found.accuracy >= row.accuracy) & (found.cost <= row.cost)
        better &= (found.accuracy > row.accuracy) | (found.cost < row.cost)
        assert row.on_joint_front == (not better.any())


def test_legend_names_all_runs(folders: list[Path]) -> None:
    figure = runs_figure(compare_runs([Run.load(folder) for folder in folders]))
    (legend,) = figure.legends
    names = [text.get_text().strip() for text in legend.get_texts()]
    assert names == ["joint front", *(folder.name for folder in folders)]


def test_milliseconds_of_two_devices_are_not_compared(folders: list[Path], tmp_path: Path) -> None:
    other = write_run(tmp_path / "other", trials=14, seed=3, target="cuda")
    comparison = compare_runs([Run.load(folders[0]), Run.load(other)])
    assert not comparison.by_latency and comparison.trials.cost.equals(comparison.trials.macs.astype("float64"))
    assert "cannot be compared" in comparison.notes[0] and "cuda" in comparison.notes[0]
    assert "multiply-adds" in runs_figure(comparison).axes[0].get_xlabel()


@pytest.mark.parametrize("names", [("abacus", "slide rule"), ("", "")], ids=["two machines", "nobody said which"])
def test_milliseconds_of_one_target_on_two_machines_are_not_compared(
    names: tuple[str, str], folders: list[Path]
) -> None:
    """Equal settings tell nothing: both call it cpu."""
    runs = [Run.load(folder) for folder in folders[:2]]
    assert compare_runs(runs).by_latency
    for run, name in zip(runs, names, strict=True):
        run.trials["machine"] = name
    comparison = compare_runs(runs)
    assert not comparison.by_latency and comparison.trials.cost.equals(comparison.trials.macs.astype("float64"))
    note = comparison.notes[0]
    assert "cannot be compared" in note and all(f"cpu ({name or 'unknown machine'})" in note for name in names)


def test_names_in_the_table_of_the_front_are_printed_as_they_are(folders: list[Path]) -> None:
    run, name = Run.load(folders[0]), "bird [v2] [/x] :cat:"
    run.trials.loc[run.trials.status == "complete", "design"] = name
    console = Console(record=True, width=250)
    console.print(front_table(run))
    assert f"({name})" in console.export_text()


def test_what_was_trained_longer_has_both_accuracies_in_the_table(folders: list[Path]) -> None:
    run = Run.load(folders[0])
    complete = run.trials[run.trials.status == "complete"].sort_values("accuracy").number.tolist()
    confirmed = [
        {"number": complete[0], "accuracy": 0.875, "epochs": 2 * (run.config.epochs or 0)},
        {"number": complete[1], "accuracy": 0.625, "epochs": run.config.epochs},  # there was no time
    ]
    run.result.update(confirmed=confirmed)
    console = Console(record=True, width=250)
    console.print(front_table(run))
    text = console.export_text()
    assert f"{2 * (run.config.epochs or 0)} epochs" in text and "87.5 %" in text and "62.5 %" not in text
    run.result.update(confirmed=confirmed[1:])
    console.print(front_table(run))
    assert " epochs" not in console.export_text()


def test_who_is_as_accurate_and_quicker_is_said(folders: list[Path]) -> None:
    run = Run.load(folders[0])
    winner = run.result["winner"]

    def row(number: int, accuracy: float, ms: float, epochs: int = 6) -> dict[str, object]:
        return {
            "number": number, "design": "", "accuracy": accuracy, "margin": 0.02, "seeds": 1, "epochs": epochs,
            "targets_ms": [ms], "latency_ms_p50": ms, "accuracy_in_search": 0.5, "test_accuracy": 0.5,
        }  # fmt: skip

    own, tie = row(winner, 0.85, 6.0), row(97, 0.84, 3.0)
    slower, worse, shorter = row(98, 0.845, 6.5), row(99, 0.82, 1.0), row(96, 0.85, 1.0, epochs=3)
    run.result["confirmed"] = [own, tie, slower, worse, shorter, row(95, 0.849, 3.5)]
    (line,) = [line for line in summary(run).splitlines() if "quicker" in line]
    assert line == "  within that interval and quicker: trial 97, 84.0 % at 3.00 ms, 0.50 times the winner's"
    run.result["confirmed"] = [own, slower, worse, shorter]
    assert "quicker" not in summary(run)


def test_unlike_trainings_are_said_and_unlike_data_refused(folders: list[Path], tmp_path: Path) -> None:
    longer = write_run(tmp_path / "longer", trials=14, epochs=9)
    first = Run.load(folders[0])
    comparison = compare_runs([first, Run.load(longer)])
    assert comparison.by_latency and "--epochs 3, 9" in comparison.notes[0]
    other = write_run(tmp_path / "other", trials=14, data="birds/")
    (other / "environment.json").write_text('{"data_fingerprint": "4567"}')
    with pytest.raises(RunError, match="one was trained on synthetic, the other on birds/"):
        compare_runs([first, Run.load(other)])
    with pytest.raises(RunError, match="named twice"):
        compare_runs([first, first])


def test_a_trial_s_architecture_is_drawn_on_demand(
    folders: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hybridnas.report.figures.FIGURES", {})
    folder = copy_of(folders[0], tmp_path)
    assert exit_code(app, [str(folder), "--trial", "3", "--trial", "5"]) == 0
    names = {f"architecture_{number}.{kind}" for number in (3, 5) for kind in ("png", "svg")}
    assert {path.name for path in (folder / "figures").iterdir()} == names
    assert "no trial 99" in said(capsys, str(folder), "--trial", "99")
    assert "--trial is of one run" in said(capsys, str(folder), str(folders[1]), "--trial", "3")


def cut(name: str) -> Callable[[Path], None]:
    """Half of a file is lost."""

    def damage(folder: Path) -> None:
        content = (folder / name).read_bytes()
        (folder / name).write_bytes(content[: len(content) // 2])

    return damage


def change(name: str, **fields: object) -> Callable[[Path], None]:
    return lambda folder: (
        (folder / name).write_text(json.dumps({**json.loads((folder / name).read_text()), **fields})) and None
    )


DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "no run folder": (lambda folder: (folder / "config.json").unlink(), "is no run folder"),
    "half a config": (cut("config.json"), "is damaged"),
    "half a result": (cut("result.json"), "is damaged"),
    "a result of texts": (
        change("result.json", confirmed=[{"number": 0, "accuracy": "high"}]),
        "result.json: confirmed.0.accuracy: .*number",
    ),
    "a baseline of nothing": (change("result.json", baselines=[{}]), "result.json: baselines.0.name: Field required"),
    "no trials yet": (lambda folder: [(folder / n).unlink() for n in ("trials.csv", "result.json")], "has no trial"),
    "another version": (change("config.json", teleport=True), "another version of hybridnas: .* settings teleport"),
    "no numbers": (lambda folder: (folder / "trials.csv").write_text("a,b\n1,2\n"), "it lacks the column number"),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_what_is_no_whole_run_folder_is_refused_with_the_reason(
    name: str, folders: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    damage, reason = DAMAGES[name]
    folder = copy_of(folders[1], tmp_path)
    damage(folder)
    err = said(capsys, str(folder))
    assert pytest.raises(RunError, Run.load, folder).match(reason) if "has no trial" not in reason else reason in err


def test_nothing_trained_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_run(tmp_path / "run", trials=5, budget_ms=0.1)
    assert "no trial that was trained to the end (5 over the budget)" in said(capsys, str(folder))
    assert not (folder / "figures").exists()


def test_a_run_of_the_first_version_is_read(folders: list[Path], tmp_path: Path) -> None:
    """Its table had fewer columns; what does not follow is empty."""
    folder = copy_of(folders[1], tmp_path)
    table = pd.read_csv(folder / "trials.csv", dtype="string")
    later = ["latency_ms_low", "latency_ms_high", "num_samples", "worst_latency", "ended"]
    table.drop(columns=[*later, "runtime", "precision", "machine"]).to_csv(folder / "trials.csv", index=False)
    result = json.loads((folder / "result.json").read_text())
    confirmed = [{name: row[name] for name in ("number", "accuracy", "latency_ms_p50")} for row in result["confirmed"]]
    kept = {name: result[name] for name in ("winner", "num_classes", "accuracy", "epochs", "test_accuracy")}
    kept |= {"latency_ms_p50": 5.0, "latency_ms_p95": 6.0, "latency_ms_raw_p50": 5.5}
    (folder / "result.json").write_text(json.dumps({**kept, "confirmed": confirmed}))
    run, whole = Run.load(folder), Run.load(folders[1])
    assert run.front().number.tolist() == whole.front().number.tolist()
    assert run.trials.ended.isna().all()
    assert "Winner: trial" in summary(run)
    not_drawn = []
    for name, draw in FIGURES.items():
        try:
            draw(run)
        except NotDrawn:
            not_drawn.append(name)
    assert not_drawn == ["history", "proxy", "importances"]


def test_the_dashboard_shows_the_study_and_cannot_change_it(folders: list[Path]) -> None:
    before = (folders[0] / "study.db").read_bytes()
    with read_only(folders[0]) as storage:
        study = optuna.load_study(study_name="rung 0", storage=storage)
        assert len(study.trials) == 14
        with pytest.raises(optuna.exceptions.StorageInternalError):
            optuna.delete_study(study_name="rung 0", storage=storage)
    answers: list[str] = []
    main = threading.get_ident()

    def ready(address: str) -> None:
        def look() -> None:
            base = address.removesuffix("/dashboard")
            try:
                with urllib.request.urlopen(f"{base}/api/studies", timeout=60) as answer:
                    answers.append(answer.read().decode())
            finally:
                signal.pthread_kill(main, signal.SIGINT)  # Ctrl-C

        threading.Thread(target=look, daemon=True).start()

    before_us = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
    try:
        serve(folders[0], "127.0.0.1", 0, ready)
    finally:
        signal.signal(signal.SIGINT, before_us)
    names = {study["study_name"] for study in json.loads(answers[0])["study_summaries"]}
    assert names == {"rung 0", "rung 1"}
    assert (folders[0] / "study.db").read_bytes() == before


def test_the_dashboard_says_what_is_missing(
    folders: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*arguments: str) -> str:
        assert exit_code(dashboard_app, [*arguments]) == 2
        err = capsys.readouterr().err
        assert err.count("\n") == 1
        return err

    assert "is no run folder" in refused(str(tmp_path))
    assert "has no study.db" in refused(str(folders[1]))
    damaged = copy_of(folders[1], tmp_path)
    (damaged / "study.db").write_text("nothing of the kind, and long enough to be looked at" * 30)
    assert "study.db cannot be read" in refused(str(damaged))
    with sqlite3.connect(tmp_path / "empty.db") as empty:
        empty.execute("CREATE TABLE other (x)")
    shutil.copy(tmp_path / "empty.db", damaged / "study.db")
    assert "study.db cannot be read" in refused(str(damaged))
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        assert f"--port {port} cannot be used" in refused(str(folders[0]), "--port", port)
    real = builtins.__import__

    def without(name: str, *args: object, **more: object) -> object:
        if name == "optuna_dashboard":
            raise ImportError(name)
        return real(name, *args, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(builtins, "__import__", without)
    assert "pip install 'hybridnas[dashboard]'" in refused(str(folders[0]))


def test_a_search_that_cannot_draw_says_so_and_goes_on(folders: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(run: Run) -> None:
        raise ZeroDivisionError("none left")

    monkeypatch.setattr("hybridnas.report.figures.FIGURES", {"history": broken})
    console = Console(record=True, width=200)
    _draw(Run.load(folders[0]), console)
    assert "warning: not all figures could be drawn (ZeroDivisionError: none left)" in console.export_text()


def test_a_damaged_file_of_trust_costs_no_search_its_end(folders: list[Path], tmp_path: Path) -> None:
    folder = copy_of(folders[0], tmp_path)
    (folder / "trust.json").write_text("{")
    console = Console(record=True, width=400)
    _draw(Run.load(folder), console)
    assert "trust.json is damaged" in console.export_text(clear=False)
    with pytest.raises(KeyboardInterrupt), _drawn_if_stopped(folder, console):
        raise KeyboardInterrupt
    assert console.export_text().count("trust.json is damaged") == 2


def test_of_a_long_front_the_most_accurate_and_what_is_named_are_shown(folders: list[Path]) -> None:
    run = Run.load(folders[0])
    of_all = run.trials[run.trials.status == "complete"].iloc[[0] * 20].reset_index(drop=True)
    run.trials = of_all.assign(
        number=range(20), design=["the known"] + 19 * [""], worst_latency=range(1, 21), accuracy=np.arange(1, 21) / 20
    )
    run.result = {"winner": 1}
    table = front_table(run)
    (numbers,) = [list(column.cells) for column in table.columns if column.header == "trial"]
    assert numbers == ["0", "1", *map(str, range(8, 20))]
    assert table.caption == "above the line: 14 of the 20 on the front, all of the most accurate"
