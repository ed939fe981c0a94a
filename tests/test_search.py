"""The command as a person uses it: real processes and real folders, on a space and data that take seconds."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from fakes import CountingTimer, Opened, made_up_record
from processes import SECONDS, Warm, start, wait_for_rows
from rich.console import Console

from hybridnas import Architecture, Run, SearchConfig, Stage, Stem, Transition, run_search
from hybridnas.beginning import open_run, resolved
from hybridnas.cli import exit_code
from hybridnas.cost.latency import Latency
from hybridnas.errors import CannotRun, ConfigError, RunError, TargetError
from hybridnas.model import HybridNet
from hybridnas.pipeline import _draw
from hybridnas.report.__main__ import app as report_app
from hybridnas.report.figures import FIGURES
from hybridnas.report.tables import summary
from hybridnas.search import app
from hybridnas.study.loop import Search
from hybridnas.study.objective import NUM_MOST_ACCURATE
from hybridnas.study.run import write_settings


@pytest.fixture
def arguments(space_file: Path, npz_file: Path, tmp_path: Path) -> list[str]:
    """A search of one epoch; the first two words are the run folder's."""
    return ["--out", str(tmp_path / "run"), "--space", str(space_file), "--data", str(npz_file), "--epochs", "1"]


@pytest.fixture(scope="module")
def finished(space_file: Path, npz_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "finished"
    config = SearchConfig(
        space=str(space_file), data=str(npz_file), epochs=1, trials=4, threads=1, budget_ms=1000, out=folder
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("hybridnas.pipeline._draw", _draw)
        run_search(config)
    return folder


def copy_of(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "copy"))


def test_the_run_folder(finished: Path) -> None:
    names = {path.name for path in finished.iterdir()}
    tables, pictures = "pareto.csv trials.csv study.db", "pareto.png explorer.html"
    settings = "config.json designs.json environment.json result.json space.yaml"
    assert names == {*f"{tables} {pictures} {settings}".split(), "best", "checkpoints", "figures"}
    figures = {path.stem for path in (finished / "figures").glob("*.svg")}
    assert figures == {path.stem for path in (finished / "figures").glob("*.png")} == FIGURES.keys() - {"importances"}
    assert {path.name for path in (finished / "best").iterdir()} == {
        "architecture.json",
        "weights.safetensors",
        "model.py",
        "labels.json",
        "preprocessing.json",
        "card.md",
    }
    config = json.loads((finished / "config.json").read_text())
    assert config["epochs"] == 1 and config["threads"] == 1 and config["target"] == config["device"] != None  # noqa: E711
    assert (finished / "pareto.png").read_bytes().startswith(b"\x89PNG")


def test_the_exported_file_is_what_the_budget_is_about(finished: Path) -> None:
    (target,) = json.loads((finished / "result.json").read_text())["targets"]
    assert target["budget_ms"] == 1000 and target["predicted_ms"] > 0
    assert 0 < target["latency_ms_low"] <= target["latency_ms_p50"] <= target["latency_ms_high"]
    environment = json.loads((finished / "environment.json").read_text())
    (machine,) = environment["targets"]
    assert environment["trained_on"]["cpu"] == machine["cpu"] and environment["trained_on"]["cores"] >= 1
    assert environment["training_threads"] >= 1 and environment["versions"]["scikit-learn"] == version("scikit-learn")
    assert target["reference_ms"] == machine["reference_ms"] > 0
    trials = Run.load(finished).trials
    assert (trials.machine == machine["fingerprint"]).all() and (trials.num_samples > 0).all()
    assert trials.latency_ms_low.le(trials.latency_ms_p50).all()
    result = Run.load(finished).result
    assert result["seeds"] == 2 and result["epochs"] == 2 and result["margin"] > 0
    best = max(result["confirmed"], key=lambda row: row["accuracy"])
    assert best["number"] == result["winner"] and best["accuracy"] == result["accuracy"]
    shown = {row["number"] for row in result["confirmed"] if "test_accuracy" in row}
    assert shown == {row["number"] for row in result["confirmed"] if row["design"]} | {result["winner"]}
    text = summary(Run.load(finished))
    several = sum(row["accuracy_in_search"] is not None for row in result["confirmed"]) > 1  # it hangs on real times
    assert "mean of 2 seeds, 2 epochs" in text and ("pairs of the confirmed kept their order" in text) == several
    assert "budget 1000 ms, predicted" in text and "the exported file p50" in text


def test_names_are_printed_as_they_are(
    space_file: Path, npz_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hybridnas.timing.Timer", lambda target, **_: CountingTimer(target))
    data = shutil.copy(npz_file, tmp_path / "bands [x] :cat:.npz")
    folder = tmp_path / "bird [v2] [" / "x]"
    console = Console(file=io.StringIO(), width=300)
    settings = {"space": str(space_file), "data": str(data), "epochs": 1, "trials": 1, "threads": 1, "out": folder}
    run_search(SearchConfig(**settings, baselines="none"), console=console)
    assert isinstance(console.file, io.StringIO)
    printed = console.file.getvalue()
    assert "data   bands [x] :cat:: " in printed
    assert f"run    {folder}\n" in printed and f"Written: {folder}/best" in printed


class Liar(CountingTimer):
    """Finds networks slower once they are exported, the first few or all; every other only in one of the sittings."""

    liars = 2

    def __init__(self, target: str, **_: object) -> None:
        super().__init__(target)
        self.finals = 0

    def measure_apart(self, model: Opened, image_size: int, **_: object) -> Latency:  # type: ignore[override]
        latency = super().measure_apart(model, image_size)
        self.finals += 1
        if self.finals > self.liars:
            return latency
        return replace(latency, high=1000 * latency.high, p50=(1 + 999 * (self.finals % 2)) * latency.p50)


class Breaks(CountingTimer):
    """Cannot run the first network that is timed again, nor the first that was exported."""

    def __init__(self, target: str, **_: object) -> None:
        super().__init__(target)
        self.again = self.finals = 0

    def measure(self, model: Opened, image_size: int, **_: object) -> Latency:  # type: ignore[override]
        self.again += 1
        if self.again == 1:
            raise CannotRun("it broke")
        return super().measure(model, image_size)

    def measure_apart(self, model: Opened, image_size: int, **_: object) -> Latency:  # type: ignore[override]
        self.finals += 1
        if self.finals == 1:
            raise CannotRun("no such operator")
        return super().measure_apart(model, image_size)


def test_a_design_that_cannot_be_run_at_the_end_is_passed_over(
    arguments: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("hybridnas.timing.Timer", Breaks)
    for place in ("objective", "loop"):  # a front of several, whatever the luck
        monkeypatch.setattr(
            f"hybridnas.study.{place}.Objective.best",
            lambda self, records: [record for record in records if record.status == "complete"],
        )
    assert exit_code(app, [*arguments, "--trials", "6", "--budget-ms", "100"]) == 0
    said = capsys.readouterr().out
    assert "cannot be run when timed again: it broke" in said
    (number,) = re.findall(r"trial (\d+) cannot be exported: no such operator; trying the next", said)
    assert int(number) != Run.load(Path(arguments[1])).best.number


class NoFile(CountingTimer):
    """A device that times networks, and opens none of their files."""

    def __init__(self, target: str, **_: object) -> None:
        super().__init__(target)

    def measure_apart(self, model: Opened, image_size: int, **_: object) -> Latency:  # type: ignore[override]
        raise CannotRun("no such file format")


def test_that_none_can_be_exported_is_no_matter_of_the_budget(
    arguments: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("hybridnas.timing.Timer", NoFile)
    assert exit_code(app, [*arguments, "--trials", "2", "--budget-ms", "100"]) == 2
    (said,) = re.findall(r"(\d+) of the best designs cannot be exported, and no other", capsys.readouterr().err)
    assert int(said) >= 1 and not (Path(arguments[1]) / "best").exists()


@pytest.mark.parametrize("liars", [2, 1000])
def test_the_next_best_takes_the_place_of_what_does_not_hold_the_budget(
    liars: int, arguments: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("hybridnas.timing.Timer", Liar)
    monkeypatch.setattr(Liar, "liars", liars)
    code = exit_code(app, [*arguments, "--trials", "6", "--budget-ms", "100"])
    folder = Path(arguments[1])
    run = Run.load(folder)
    printed = capsys.readouterr()
    passed_over = re.findall(r"trial (\d+), exported, is over the budget", printed.out)
    done = run.trials[run.trials.status == "complete"]
    done = done.sort_values(["accuracy", "worst_latency"], ascending=[False, True])
    known = done[done.design != ""]
    eligible = {*run.front().number, *done.number[:NUM_MOST_ACCURATE], known.number[known.accuracy.idxmax()]}
    if liars == 2 < len(eligible):
        assert code == 0 and len(passed_over) == 2
        assert str(run.best.number) not in passed_over
        confirmed = {str(row["number"]) for row in run.result["confirmed"]}
        assert str(run.best.number) in confirmed and not confirmed & {*passed_over}  # none of these is advised
        assert run.architecture(int(run.best.number)) == Architecture.from_json(
            (folder / "best" / "architecture.json").read_text()
        )
    else:
        assert code == 3
        assert set(map(int, passed_over)) == eligible and not (folder / "best").exists()
        assert "No design holds the budget of 100 ms" in printed.err


def test_a_target_that_is_gone_leaves_a_run_to_resume(
    arguments: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    opened = []

    def dies(model: object) -> None:
        if not isinstance(model, HybridNet):
            return
        opened.append(model)
        if len(opened) == 4:
            raise TargetError("The target cpu stopped answering")

    monkeypatch.setattr("hybridnas.timing.Timer", lambda target, **_: CountingTimer(target, before=dies))
    assert exit_code(app, [*arguments, "--trials", "6"]) == 2
    assert capsys.readouterr().err == "hybridnas: The target cpu stopped answering\n"
    folder = Path(arguments[1])
    done = len(Run.load(folder).trials)
    assert 0 < done < 6 and (folder / "pareto.png").stat().st_size > 10_000
    assert (folder / "explorer.html").stat().st_size > 10_000
    assert exit_code(app, ["--resume", "--out", str(folder)]) == 0
    assert len(Run.load(folder).trials) >= 6


def test_a_machine_slower_than_last_time_is_said(
    arguments: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setenv("HYBRIDNAS_CACHE", str(tmp_path / "cache"))
    timers = []

    def timer(target: str, **_: object) -> CountingTimer:
        timers.append(CountingTimer(target))
        timers[-1].reference_ms = [1.0, 1.4, 1.5][len(timers) - 1]
        return timers[-1]

    monkeypatch.setattr("hybridnas.timing.Timer", timer)
    warned = []
    for i in range(3):
        assert exit_code(app, [*arguments, "--trials", "1", "--out", str(tmp_path / f"run-{i}")]) == 0
        warned.append(" ".join(capsys.readouterr().out.split()))
    slower = "warning: cpu is 40% slower than last time: its reference network takes 1.4 ms, then 1 ms."
    assert [slower in text for text in warned] == [False, True, False]
    assert [" slower than last time" in text for text in warned] == [False, True, False]


def test_what_another_search_added_last_is_in_the_table(
    space_file: Path, npz_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in a study that is shared: it was read when this search had kept its own last trial."""
    run = Search.run

    def then_read(self: Search, **given: Any) -> None:
        run(self, **given)
        other = self.space.sample(lambda _, values: values[-1])
        cost = replace(self.records[0].cost, latency_ms_p50=1.0)
        self._put(replace(made_up_record(99, other), accuracies=(1.0,), costs=(cost,), worst_latency=1.0))

    monkeypatch.setattr(Search, "run", then_read)
    monkeypatch.setattr("hybridnas.timing.Timer", lambda target, **_: CountingTimer(target))
    settings = {"space": str(space_file), "data": str(npz_file), "epochs": 1, "trials": 1, "threads": 1}
    found = run_search(SearchConfig(**settings, baselines="none", out=tmp_path / "run"))
    assert 99 in found.trials.number.tolist() and 99 in [row["number"] for row in found.result["confirmed"]]
    assert (tmp_path / "run" / "best" / "card.md").is_file()


def test_two_targets_give_a_front_each(
    arguments: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("hybridnas.timing.Timer", lambda target, **_: CountingTimer(target, len(target)))
    targets = ["--target", "cpu", "--target", "ssh://pi@edge"]
    assert exit_code(app, [*arguments, *targets, "--trials", "5", "--budget-ms", "50", "--budget-ms", "500"]) == 0
    run = Run.load(Path(arguments[1]))
    assert run.config.targets == ("cpu", "ssh://pi@edge") and run.config.budget_ms == (50, 500)
    assert len(run.front("cpu")) and len(run.front("ssh://pi@edge")) and len(run.front())
    assert [target["target"] for target in run.result["targets"]] == list(run.config.targets)
    out = capsys.readouterr().out
    assert "Robust front" in out and "ssh://pi@edge, torch fp32: budget 500 ms" in out
    with pytest.raises(RunError, match="no target 'cuda', but cpu, ssh://pi@edge"):
        run.front("cuda")


def test_a_run_reads_back(finished: Path, npz_file: Path) -> None:
    run = Run.load(finished)
    trained = run.trials[run.trials.status == "complete"]
    assert len(trained) == 4 and (trained.latency_ms_p50 > 0).all() and trained.accuracy.between(0, 1).all()
    assert set(
        "number key rung status reason layout macs params latency_ms_p50 predicted_ms accuracy seconds".split()
    ) <= set(run.trials.columns)
    front = run.front()
    for _, row in front.iterrows():
        better = trained[(trained.accuracy >= row.accuracy) & (trained.latency_ms_p50 < row.latency_ms_p50)]
        assert better.empty
    pd.testing.assert_frame_equal(
        pd.read_csv(finished / "pareto.csv")[["number", "accuracy"]],
        front[["number", "accuracy"]].reset_index(drop=True),
        check_dtype=False,
    )
    best = run.best
    assert best.number in {*front.number, *trained.nlargest(NUM_MOST_ACCURATE, "accuracy", keep="all").number}
    assert run.architecture(int(best.number)).key == best.key
    assert run.architecture(int(best.number)) == Architecture.from_json(
        (finished / "best/architecture.json").read_text()
    )
    assert run.result["targets"][0]["latency_ms_p50"] <= 1000


def test_the_exported_model_loads_in_a_clean_process_and_is_as_accurate_as_said(finished: Path, npz_file: Path) -> None:
    code = f"""
import sys; sys.path.insert(0, {str(finished / "best")!r})
import numpy as np, torch
from model import CLASS_NAMES, model, preprocess
data = np.load({str(npz_file)!r})
images = torch.from_numpy(data["test_images"])[:, None].expand(-1, 3, -1, -1)
with torch.no_grad():
    right = (model(preprocess(images)).argmax(1).numpy() == data["test_labels"]).mean()
print(CLASS_NAMES, round(float(right), 6))
"""
    out = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, timeout=SECONDS)
    run = Run.load(finished)
    assert out.stdout.strip() == f"['top', 'middle', 'bottom'] {round(run.result['test_accuracy'], 6)}", out.stderr
    images = torch.randn(2, 3, 16, 16)
    with torch.inference_mode():
        assert run.best_model()(images).shape == (2, 3)


def test_report_needs_the_folder_alone(finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = copy_of(finished, tmp_path)
    for name in ("pareto.png", "explorer.html", "study.db", "space.yaml", "environment.json"):
        (folder / name).unlink()
    assert exit_code(report_app, [str(folder)]) == 0
    out = capsys.readouterr().out
    assert "Winner: trial" in out and "4 trained" in out and (folder / "pareto.png").stat().st_size > 10_000
    assert (folder / "explorer.html").stat().st_size > 10_000


def test_a_finished_search_resumed_without_more_to_do_trains_nothing(finished: Path, tmp_path: Path) -> None:
    folder = copy_of(finished, tmp_path)
    before = (folder / "trials.csv").read_bytes(), (folder / "result.json").read_bytes()
    run_search(SearchConfig(out=folder), resume=True)
    assert ((folder / "trials.csv").read_bytes(), (folder / "result.json").read_bytes()) == before
    run = run_search(SearchConfig(out=folder, trials=5), resume=True)
    assert len(run.trials[run.trials.status == "complete"]) == 5
    assert Run.load(finished).trials.key.tolist() == run.trials.key.tolist()[: len(Run.load(finished).trials)]


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (
            ["--seed", "3"],
            "--seed was 0 in this run and cannot become 3: --resume may change only --trials, --time, --workers, "
            "--executor, --ray-address, --storage, --baselines and --baseline-weights.",
        ),
        (["--epochs", "2"], "--epochs was 1 in this run and cannot become 2"),
        (["--budget-ms", "5"], "--budget-ms was 1000.0 in this run and cannot become 5.0"),
        (["--space", "tiny"], "--space was"),
        (["--data", "elsewhere"], "--data was"),
        (["--budget-macs", "5"], "--budget-macs was not given in this run and cannot become 5.0"),
        (["--flip"], "--flip was False in this run and cannot become True"),
    ],
)
def test_resume_refuses_another_configuration_by_name(
    finished: Path, flags: list[str], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    before = sorted((path, path.stat().st_mtime_ns) for path in finished.rglob("*"))
    assert exit_code(app, ["--resume", "--out", str(finished), *flags]) == 2
    assert capsys.readouterr().err.startswith(f"hybridnas: {sentence}")
    assert sorted((path, path.stat().st_mtime_ns) for path in finished.rglob("*")) == before


@pytest.mark.parametrize("flags", [["--rungs", "1"], ["--rungs", "1,3"], ["--no-rungs"], []])
def test_a_search_goes_on_by_its_own_command(tmp_path: Path, flags: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """And one with other rungs does not."""
    given = []
    monkeypatch.setattr("hybridnas.pipeline.run_search", lambda config, **_: given.append(config))
    command = ["--epochs", "3", *flags, "--out", str(tmp_path)]
    assert exit_code(app, command) == 0
    stored = resolved(given[0], space="tiny")
    assert stored.rungs == ((3,) if flags == ["--no-rungs"] else (1, 3))
    write_settings(tmp_path, stored)
    assert exit_code(app, [*command, "--resume"]) == 0
    monkeypatch.setattr("hybridnas.beginning.check_goes_on", lambda *_: None)
    assert open_run(given[1], resume=True)[0].rungs == stored.rungs
    with pytest.raises(ConfigError, match="--rungs was .* in this run and cannot become"):
        open_run(given[1].model_copy(update={"rungs": (2,)}), resume=True)


@pytest.mark.parametrize(
    ("given", "space", "expected"), [({}, "tiny", 270), ({}, "hybrid", 3600), ({"trials": 3}, "hybrid", None)]
)
def test_how_long_a_search_takes_unless_told(given: dict[str, int], space: str, expected: float | None) -> None:
    assert resolved(SearchConfig(**given), space=space).time == expected
    assert resolved(SearchConfig(time=60, **given), space=space).time == 60


def test_resume_refuses_other_data_under_the_same_name(finished: Path, tmp_path: Path, npz_file: Path) -> None:
    folder = copy_of(finished, tmp_path)
    environment = json.loads((folder / "environment.json").read_text())
    (folder / "environment.json").write_text(json.dumps(environment | {"data_fingerprint": "0" * 16}))
    assert exit_code(app, ["--resume", str(folder)]) == 2


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (["--trials", "-1"], "--trials: input should be greater than or equal to 1, got -1."),
        (["--workers", "0"], "--workers: input should be greater than or equal to 1, got 0."),
        (["--workers", "many"], "--workers: must be a number of processes or auto, got 'many'."),
        (["--trials", "many"], "Invalid value for '--trials'"),
        (["--epochs", "0"], "--epochs: input should be greater than or equal to 1, got 0."),
        (["--budget-ms", "0"], "--budget-ms: input should be greater than 0, got 0"),
        (["--budget-macs", "0"], "--budget-macs: input should be greater than 0, got 0"),
        (["--budget-ms", "nan"], "--budget-ms: input should be"),
        (["--time", "soon"], "--time: must be a duration such as 5m, 4m30s or 90s, got 'soon'."),
        (["--batch-size", "1"], "--batch-size: input should be greater than or equal to 2, got 1."),
        (["--image-size", "3"], "--image-size: input should be greater than or equal to 8, got 3."),
        (["--space", "tniy"], "No space 'tniy': name one of coatnet, edge, hybrid, mobile, server,"),
        (["--data", "nowhere"], "--data nowhere does not exist"),
        (["--device", "cuda:99"], "The device 'cuda:99' is not on this machine"),
        (["--target", "toaster"], "Unknown device 'toaster'"),
        (["--target", "cpu", "--target", "cpu"], "--target: names a device twice.\n"),
        (["--budget-ms", "5"], "--budget-ms: give one, or as many as --target, got 2 for 1."),
        (["--rungs", "3,1"], "--rungs: must rise, got 3,1."),
        (["--rungs", "one"], "--rungs: must be numbers of epochs such as 1,3,9, got 'one'."),
        (["--rungs", "0,1"], "--rungs: input should be greater than or equal to 1"),
        (["--rungs", "1,7"], "--rungs: 7 is over the 3 epochs of a training; give more --epochs."),
        (["--rungs", "1", "--no-rungs"], "Invalid value: --no-rungs and --rungs exclude each other"),
        (["--baseline-weights", "here"], "--baseline-weights is for --baselines timm, got zoo."),
        (
            ["--baselines", "timm", "--baseline-weights", "nowhere"],
            "--baseline-weights nowhere has no file named after one of timm's models that a winner is compared with",
        ),
        (["--baselines", "foo"], "--baselines: input should be 'zoo', 'timm' or 'none', got foo."),
        (["--sampler", "magic"], "--sampler: input should be 'auto', 'cost-aware', 'tpe',"),
        (["--objective", "speed"], "--objective: input should be 'front', 'accuracy',"),
        (["--ray-address", "auto"], "--ray-address is for --executor ray, got local."),
        (["--out", "s3://bucket/run"], "--out: must be a folder of this machine, which may be mounted, and no address"),
        (
            ["--sampler", "cost-aware", "--objective", "front+macs"],
            "--sampler: cost-aware knows no third objective, which front+macs has; take tpe",
        ),
        (["--enqueue", "resnet50"], "--enqueue resnet50: "),
        (["--enqueue", "resnet5"], "No design 'resnet5' in the zoo: did you mean resnet50"),
        (["--runtime", "tvm"], "--runtime must be one of torch, compile,"),
        (["--precision", "int8"], "--precision of the runtime torch must be one of fp32, fp16, bf16, got 'int8'."),
        (["--target", "ssh://pi@edge:ssh"], "A target over ssh is written ssh://user@host[:port], got"),
        (["--target", "command:true"], "The command 'true' must have {model}"),
        (["--unheard-of"], "No such option: --unheard-of"),
        (["somewhere"], "Invalid value: unexpected argument somewhere"),
    ],
)
def test_a_mistake_is_one_sentence_and_leaves_nothing(
    flags: list[str], sentence: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert exit_code(app, ["--budget-ms", "10", "--trials", "1", *flags]) == 2
    err = capsys.readouterr().err
    assert err.startswith(f"hybridnas: {sentence}") and err.count("\n") == 1, err
    assert list(tmp_path.iterdir()) == []


def test_a_typo_in_the_space_is_named_with_its_line(
    space_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.yaml").write_text(space_file.read_text().replace("mbconv, convnext", "mbconv, convnexxt", 1))
    assert exit_code(app, ["--space", "mine.yaml", "--trials", "1"]) == 2
    assert "mine.yaml, line 4: stages[0].block names 'convnexxt', which is unknown" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["mine.yaml"]


def test_an_existing_folder_is_not_written_into(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("x")
    assert exit_code(app, ["--trials", "1", "--out", str(tmp_path / "mine")]) == 2
    assert "exists already" in capsys.readouterr().err
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["thesis.txt"]


def test_no_run_to_resume(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    assert exit_code(app, ["--resume"]) == 2
    assert exit_code(app, ["--resume", "nowhere"]) == 2
    (tmp_path / "half").mkdir()
    (tmp_path / "half" / "config.json").write_text('{"space": 3')
    assert exit_code(app, ["--resume", "half"]) == 2
    err = capsys.readouterr().err.splitlines()
    assert len(err) == 3 and all(line.startswith("hybridnas: ") for line in err)


def test_no_time_for_a_single_design_is_one_sentence(
    arguments: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("hybridnas.timing.Timer", lambda target, **_: CountingTimer(target))
    assert exit_code(app, [*arguments, "--time", "1s"]) == 2
    err = capsys.readouterr().err
    assert err.startswith("hybridnas: No training reached its last epoch within 1 s: go on with --resume and more --ti")
    assert err.count("\n") == 1


def test_a_budget_out_of_reach_exits_with_3(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code(app, [*arguments, "--budget-macs", "1000", "--trials", "2"]) == 3
    err = capsys.readouterr().err
    assert "0.001 MMAC is out of reach in the space small" in err and "the smallest has" in err


def test_help_needs_no_torch() -> None:
    code = (
        "import sys; from hybridnas.cli import exit_code; from hybridnas.search import app; exit_code(app, ['--help'])"
    )
    heavy = (
        "; print(*({'torch', 'timm', 'optuna', 'pandas', 'matplotlib', 'numpy'} & set(sys.modules)), file=sys.stderr)"
    )
    out = subprocess.run([sys.executable, "-c", code + heavy], capture_output=True, text=True, timeout=SECONDS)
    assert "--budget-ms" in out.stdout and out.stderr.strip() == ""


def test_stopped_at_any_moment_no_finished_trial_is_lost(arguments: list[str], tmp_path: Path) -> None:
    folder = tmp_path / "run"
    flags = [*arguments, "--trials", "8", "--threads", "1", "--baselines", "none"]
    before = pd.DataFrame()
    for name in ("SIGINT", "SIGTERM", "SIGKILL"):
        process = (start if name == "SIGTERM" else Warm)("search", *flags, *["--resume"] * (len(before) > 0))
        wait_for_rows(folder / "trials.csv", len(before) + 2)
        stopped = time.monotonic()
        os.kill(process.pid, getattr(signal, name))
        _, err = process.communicate(timeout=SECONDS)
        if name != "SIGKILL":
            assert time.monotonic() - stopped < 10  # which is promised
            assert process.returncode == 130 and "stopped" in err and "Traceback" not in err
            assert (folder / "pareto.png").is_file()
            (folder / "pareto.png").unlink()
        after = pd.read_csv(folder / "trials.csv")
        assert len(after) >= len(before) + 2
        if len(before):
            pd.testing.assert_frame_equal(after.iloc[: len(before)], before, check_dtype=False)
        before = after

    process = Warm("search", *flags, "--resume")
    out, err = process.communicate(timeout=SECONDS)
    assert process.returncode == 0, err
    after = pd.read_csv(folder / "trials.csv")
    pd.testing.assert_frame_equal(after.iloc[: len(before)], before, check_dtype=False)
    assert (after.status == "complete").sum() == 8 and not after.key.duplicated().any()
    with sqlite3.connect(folder / "study.db") as database:
        states = [state for (state,) in database.execute("select state from trials")]
    assert "RUNNING" not in states
    database.close()
    assert "Winner: trial" in out and not list(folder.glob(".*"))


def test_the_neighbours_of_a_design(tmp_path: Path, npz_file: Path) -> None:
    """The design itself is the first trial; what follows is one step away; a resumed run stays in the same space."""
    design = Architecture(
        16, Stem("conv", 8), (Stage(Transition("conv"), "mbconv", 1, 16), Stage(Transition("conv"), "convnext", 1, 32))
    )
    file = tmp_path / "mine.json"
    file.write_text(design.to_json())
    given = {"trials": 2, "epochs": 1, "threads": 1, "baselines": "none"}
    config = SearchConfig(around=str(file), data=str(npz_file), out=tmp_path / "run", **given)
    run = run_search(config)
    assert run.trials.design[0] == "mine"
    assert run.architecture(0).families == design.families
    assert {stage.depth for stage in run.architecture(1).stages} <= {1, 2}
    file.unlink()
    assert len(run_search(SearchConfig(trials=3, out=tmp_path / "run"), resume=True).trials) >= 3


def test_a_design_of_ones_own_is_tried_first_and_the_best_third_goes_on(
    finished: Path, arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own = copy_of(finished, tmp_path) / "best" / "architecture.json"
    flags = [*arguments[:-2], "--epochs", "3", "--threads", "1", "--baselines", "none", "--enqueue", str(own)]
    assert exit_code(app, [*flags, "--trials", "4"]) == 0
    shutil.rmtree(tmp_path / "copy")  # the run has the design itself
    out = capsys.readouterr().out
    assert "1 designs to try first" in out and "2 stopped at a rung" in out and " seconds" not in out
    run = Run.load(tmp_path / "run")
    first = run.trials.set_index("number").loc[0]
    assert first.design == "copy" and run.architecture(0) == Run.load(finished).architecture(
        Run.load(finished).result["winner"]
    )
    assert run.trials.status.value_counts().to_dict() == {"pruned": 2, "complete": 2}
    assert run.config.rungs == (1, 3) and set(run.trials.rung) == {0, 1}
    assert set(run.front().status) == {"complete"} and run.result["epochs"] == 6
    parts = "starting training costing proposing keeping confirming exporting drawing".split()
    assert {*parts} <= set(run.result["seconds"])
    assert re.search(r"^Seconds: .*\d drawing", out, re.MULTILINE)
    assert exit_code(app, ["--resume", str(tmp_path / "run"), "--trials", "7"]) == 0
    again = Run.load(tmp_path / "run").trials
    assert len(again) == 7 and (again.status == "complete").sum() == 3


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (["--around", "resnet5"], "No design 'resnet5' in the zoo: did you mean resnet50"),
        (["--around", "resnet50", "--space", "tiny"], "--space and --around exclude each other"),
        (["--around", "none.json"], "none.json cannot be read"),
    ],
)
def test_a_mistaken_around_is_one_sentence(
    flags: list[str], sentence: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert exit_code(app, ["--trials", "1", *flags]) == 2
    assert f"hybridnas: {sentence}" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
