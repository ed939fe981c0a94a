"""Run folders as they are found: of older and newer versions, half written, without a trained trial."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

import murders
import pandas as pd
import pytest
import typer

import hybridnas.dashboard
import hybridnas.export.__main__
import hybridnas.report.__main__
import hybridnas.search
import hybridnas.train
import hybridnas.trust
from hybridnas import Run, SearchConfig, run_search
from hybridnas.cli import exit_code
from hybridnas.config import TrainConfig
from hybridnas.errors import RunError
from hybridnas.starting import start
from hybridnas.study.records import COLUMNS, NEEDED
from hybridnas.study.run import FORMAT

#: What the first version wrote, and what came before rungs.
FIRST_COLUMNS = (
    "number key design rung status reason layout families image_size macs params latency_ms_p50 latency_ms_p95 "
    "predicted_ms accuracy seconds seed target batch_size architecture"
).split()
SECOND_COLUMNS = [name for name in COLUMNS if name not in ("ended", "stage_ms")]
FIRST_SETTINGS = (
    "out space data budget_ms budget_macs budget_params trials time epochs image_size batch_size train_images flip "
    "device target latency_batch_size threads seed"
).split()
SECOND_SETTINGS = [*FIRST_SETTINGS, "around", "max_bad", "runtime", "precision"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, space_file: Path, npz_file: Path) -> Path:
    folder = tmp_path_factory.mktemp("finished") / "run"
    config = SearchConfig(space=str(space_file), data=str(npz_file), epochs=1, trials=4, threads=1, budget_ms=1000)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("hybridnas.timing.Timer", murders.make_timer)
        run_search(config.model_copy(update={"out": folder}))
    return folder


@pytest.fixture
def folder(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "run"))


def edit(path: Path, change: Callable[[dict[str, object]], Mapping[str, object]]) -> None:
    path.write_text(json.dumps(change(json.loads(path.read_text()))))


def keep_columns(folder: Path, names: list[str]) -> None:
    table = pd.read_csv(folder / "trials.csv", dtype=str)
    table[[name for name in table if name in names]].to_csv(folder / "trials.csv", index=False)


def as_the_first(folder: Path) -> None:
    """One target, timed in torch; no rungs, and no designs to try first."""
    keep_columns(folder, FIRST_COLUMNS)
    edit(folder / "config.json", lambda all: {name: all[name] for name in FIRST_SETTINGS} | {"epochs": None})
    edit(folder / "environment.json", lambda all: {"reference_ms": 1.0, "data_fingerprint": all["data_fingerprint"]})
    figures = ("latency_ms_p50", "latency_ms_p95", "latency_ms_raw_p50")
    kept = ("winner", "num_classes", "accuracy", "epochs", "test_accuracy")
    edit(
        folder / "result.json",
        lambda all: {
            **{name: all[name] for name in kept},
            **{name: all["targets"][0][name] for name in figures},  # type: ignore[index]
            "confirmed": [
                {"number": all["winner"], "accuracy": all["accuracy"], "longer": True, "latency_ms_p50": 1.0}
            ],
        },
    )
    for name in ("designs.json", "study.db"):
        (folder / name).unlink()


def as_before_rungs(folder: Path) -> None:
    """Several targets and runtimes, but each trial is trained to the end."""
    keep_columns(folder, SECOND_COLUMNS)
    edit(folder / "config.json", lambda all: {name: all[name] for name in SECOND_SETTINGS})
    kept = ("winner", "num_classes", "targets", "accuracy", "epochs", "test_accuracy")
    edit(
        folder / "result.json",
        lambda all: {
            **{name: all[name] for name in kept},
            "confirmed": [{"number": all["winner"], "accuracy": all["accuracy"], "longer": True}],
        },
    )


def without_a_number(folder: Path) -> None:
    """As today, before folders had a format."""
    keep_columns(folder, SECOND_COLUMNS)
    edit(folder / "config.json", lambda all: {name: value for name, value in all.items() if name != "format"})


OLDER = [as_the_first, as_before_rungs, without_a_number]

APPS: dict[str, typer.Typer] = {
    "report": hybridnas.report.__main__.app,
    "trust": hybridnas.trust.app,
    "train": hybridnas.train.app,
    "search": hybridnas.search.app,
    "export": hybridnas.export.__main__.app,
    "dashboard": hybridnas.dashboard.app,
}


@pytest.fixture
def said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[[str, Path], str]:
    """What a command says of a run folder that it refuses: one sentence, exit code 2."""
    monkeypatch.setattr("hybridnas.timing.Timer", murders.make_timer)
    flags = {"search": ["--resume"], "train": ["--epochs", "1", "--out", str(tmp_path / "training")]}
    flags["export"] = ["--out", str(tmp_path / "exported")]

    def call(command: str, folder: Path) -> str:
        code = exit_code(APPS[command], [*flags.get(command, []), str(folder)])
        err = capsys.readouterr().err
        assert code == 2 and err.startswith("hybridnas: ") and err.count("\n") == 1
        return err.removeprefix("hybridnas: ").strip()

    return call


@pytest.mark.parametrize("older", OLDER)
def test_an_older_run_is_read_and_reported(older, finished, folder, capsys):
    today = Run.load(finished)
    older(folder)
    run = Run.load(folder)
    assert set(COLUMNS) <= set(run.trials.columns) and run.trials.ended.isna().all()
    assert run.trials.dtypes.to_dict() == today.trials.dtypes.to_dict()
    pd.testing.assert_frame_equal(run.trials[list(NEEDED)], today.trials[list(NEEDED)])
    assert run.trials.worst_latency.tolist() == run.trials.latency_ms_p50.tolist()
    assert run.front().number.tolist() == today.front().number.tolist()
    assert run.best.number == today.best.number and run.best_model().architecture.key == run.best.key
    (target,), (then,) = run.result["targets"], today.result["targets"]
    for name in ("target", "runtime", "precision", "budget_ms", "latency_ms_p50", "latency_ms_p95"):
        assert target[name] == then[name]
    assert exit_code(APPS["report"], [str(folder)]) == 0
    assert f"Winner: trial {run.best.number}" in capsys.readouterr().out
    assert start(TrainConfig(architecture=str(folder))).architecture.key == run.best.key
    assert run._repr_html_().count("<tr") == 1 + len(run.front())


@pytest.mark.parametrize("older", OLDER[:2])
@pytest.mark.parametrize("command", ["search", "trust", "export"])
def test_what_was_trained_otherwise_is_not_gone_on_with(older, command, folder, said):
    older(folder)
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    text = said(command, folder)
    assert "was made by an older version, which had no rungs" in text and "begin a new run" in text
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


def test_a_run_without_a_number_goes_on_and_gets_the_columns(folder, monkeypatch):
    monkeypatch.setattr("hybridnas.timing.Timer", murders.make_timer)
    without_a_number(folder)
    before = Run.load(folder).trials
    run = run_search(SearchConfig(out=folder, trials=5), resume=True)
    assert len(run.trials) >= 5 and run.trials.ended.notna().all()
    assert run.trials.key.tolist()[: len(before)] == before.key.tolist()


@pytest.mark.parametrize("command", APPS)
def test_a_newer_run_is_refused_whatever_else_it_says(command, folder, said):
    edit(folder / "config.json", lambda all: {**all, "format": FORMAT + 1, "of_the_future": [1]})
    text = said(command, folder)
    assert text == (
        f"{folder} was written by a newer hybridnas: its format is {FORMAT + 1}, and this one reads those up to "
        f"{FORMAT}; update hybridnas."
    )


def test_what_is_written_says_its_format(finished):
    assert next(iter(json.loads((finished / "config.json").read_text()).items())) == ("format", FORMAT)


def empty(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.mkdir()


def gone(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.write_text("a file")


def cut(name: str, share: float = 0.5) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        content = (folder / name).read_bytes()
        (folder / name).write_bytes(content[: int(share * len(content))])

    return change


def replaced(name: str, text: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).write_text(text) and None


def without(*names: str) -> Callable[[Path], None]:
    return lambda folder: [(folder / name).unlink() for name in names] and None


def all_with_status(status: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        table = pd.read_csv(folder / "trials.csv", dtype=str)
        table.assign(status=status).to_csv(folder / "trials.csv", index=False)
        (folder / "result.json").unlink()

    return change


def one_line_less(folder: Path) -> None:
    lines = (folder / "trials.csv").read_text().splitlines()
    (folder / "trials.csv").write_text("\n".join([lines[0], lines[1], lines[1]]))


def of_a_training(folder: Path) -> None:
    settings = TrainConfig(architecture="resnet50", data="synthetic")
    (folder / "config.json").write_text(settings.model_dump_json())


READERS = ["report", "trust", "train", "export"]


@pytest.mark.parametrize(
    ("damage", "commands", "sentence"),
    [
        (empty, APPS, "is no run folder: it has no config.json"),
        (gone, ["report", "trust", "search", "export", "dashboard"], "is no run folder: there is no such folder"),
        (without("config.json"), APPS, "is no run folder: it has no config.json"),
        (cut("config.json"), APPS, "is damaged: config.json: EOF while parsing"),
        (replaced("config.json", ""), APPS, "is damaged: config.json: EOF while parsing"),
        (replaced("config.json", "[]"), APPS, "is damaged: config.json: it holds no settings"),
        (replaced("config.json", '{"budget_ms": "x"}'), APPS, "is damaged: config.json: budget_ms."),
        (replaced("config.json", '{"format": "new"}'), APPS, "its format is 'new'"),
        (of_a_training, APPS, "is the folder of a training, not of a search"),
        (cut("trials.csv"), READERS, "is damaged: trials.csv: .*; `search --resume` writes it anew"),
        (replaced("trials.csv", ""), READERS, "is damaged: trials.csv: No columns to parse"),
        (cut("trials.csv", 0.01), READERS, "is damaged: trials.csv: it lacks the column"),
        (one_line_less, READERS, "is damaged: trials.csv: trial 0 stands in it twice"),
        (all_with_status("done"), READERS, "is damaged: trials.csv: line 2 is not whole"),
        (
            cut("result.json"),
            READERS,
            "is damaged: result.json: EOF while parsing .*; `search --resume` writes it anew",
        ),
        (replaced("result.json", "{}"), READERS, "is damaged: result.json: winner: Field required"),
        (replaced("result.json", '"x"'), READERS, "is damaged: result.json: Input should be a valid dictionary"),
        (without("trials.csv"), READERS, "is damaged: trials.csv: it lacks trial ., the winner of result.json"),
        (without("trials.csv", "result.json"), ["report"], "has no trial that was trained to the end"),
        (without("trials.csv", "result.json"), ["trust"], "has 0 trained trials; at least 3 are needed"),
        (
            without("trials.csv", "result.json"),
            ["train"],
            "has no winner yet: the search did not end; go on with --resume",
        ),
        (all_with_status("infeasible"), ["report"], r"has no trial that was trained to the end \(\d over the budget\)"),
        (all_with_status("failed"), ["report"], "has no trial that was trained to the end"),
        (all_with_status("pruned"), ["report"], "has no trial that was trained to the end"),
        (all_with_status("infeasible"), ["trust"], "has 0 trained trials; at least 3 are needed"),
        (all_with_status("infeasible"), ["train"], "has no winner yet: the search did not end; go on with --resume"),
        (all_with_status("infeasible"), ["export"], "has no winner yet: the search did not end; go on with --resume"),
        (without("trials.csv", "result.json"), ["export"], "has no trial that was trained: there is nothing to export"),
        (without("study.db"), ["dashboard"], "has no study.db: the search has not begun yet"),
        (without("best/architecture.json"), ["train"], "best/architecture.json cannot be read"),
        (without("environment.json"), ["search", "trust"], "environment.json cannot be read"),
        (replaced("environment.json", '{"data_fingerprint": "0"}'), ["search", "trust"], "targets Field required"),
        (cut("environment.json"), ["search", "trust"], "environment.json cannot be read"),
        (cut("space.yaml", 0.2), ["search", "trust"], "space.yaml"),
        (cut("designs.json"), ["search"], "designs.json cannot be read"),
        (cut("study.db", 0.3), ["search", "dashboard"], "study.db cannot be"),
    ],
)
def test_a_folder_that_cannot_be_used_is_one_sentence(damage, commands, sentence, folder, said, tmp_path):
    damage(folder)
    for command in commands:
        text = said(command, folder)
        assert folder.name in text
        assert re.search(sentence, text), text
    assert not (tmp_path / "training").exists() or not [*(tmp_path / "training").iterdir()]


def test_environment_and_settings_that_name_other_targets(folder, said):
    edit(folder / "environment.json", lambda all: {**all, "targets": []})
    assert said("search", folder).endswith("environment.json and config.json differ in their targets.")


def test_a_number_that_no_trial_has(folder):
    run = Run.load(folder)
    last = run.trials.number.max()
    for number in (999, -1):
        with pytest.raises(RunError, match=f"has no trial {number}; its trials are numbered 0 to {last}"):
            run.architecture(number)
    without("trials.csv", "result.json")(folder)
    with pytest.raises(RunError, match="has no trial 0; it has none yet"):
        Run.load(folder).architecture(0)
    with pytest.raises(RunError, match="has no winner yet"):
        Run.load(folder).best_model()
    assert Run.load(folder).front().empty and "0 trials" in Run.load(folder)._repr_html_()


def test_a_network_that_is_gone(folder):
    without("best/weights.safetensors")(folder)
    with pytest.raises(RunError, match=r"best has no weights.safetensors any more"):
        Run.load(folder).best_model()
    (folder / "best" / "weights.safetensors").write_bytes(b"half")
    with pytest.raises(RunError, match=r"The network in .*best cannot be read: "):
        Run.load(folder).best_model()


def test_a_table_cut_anywhere_is_said_or_ends_after_a_whole_line(folder):
    """As a copy that was interrupted; `result.json`, which may name a trial that is lost, is left out."""
    (folder / "result.json").unlink()
    whole, content = Run.load(folder).trials, (folder / "trials.csv").read_bytes()
    for end in range(len(content) // 3, len(content), 11):
        (folder / "trials.csv").write_bytes(content[:end])
        try:
            trials = Run.load(folder).trials
        except RunError as error:
            assert "is damaged: trials.csv: " in str(error)
        else:
            pd.testing.assert_frame_equal(trials, whole.iloc[: len(trials)])


def test_texts_and_large_numbers_are_what_was_written(folder):
    table = pd.read_csv(folder / "trials.csv", dtype=str)
    keys = [f"{10**15 + i}" for i in range(len(table))]
    keys[0] = "00e4567890123456"
    table.assign(key=keys, reason="None", seed=2**62 + 1).to_csv(folder / "trials.csv", index=False)
    trials = Run.load(folder).trials
    assert trials.key.tolist() == keys and set(trials.reason) == {"None"} and set(trials.seed) == {2**62 + 1}
