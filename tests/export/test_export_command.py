"""`export` and `predict` as a person uses them, and what people get wrong."""

from __future__ import annotations

import copy
import json
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image, ImageOps
from torch import Tensor, nn

from hybridnas import Architecture, Run, SearchConfig, run_search
from hybridnas.cli import exit_code
from hybridnas.config import TrainConfig
from hybridnas.cost.runtimes import Setting
from hybridnas.data.loading import Loading
from hybridnas.data.sources import open_source
from hybridnas.errors import CannotRun, HybridNasError
from hybridnas.export import onnx as onnx_form
from hybridnas.export.__main__ import app as export_app
from hybridnas.export.bundle import export_bundle
from hybridnas.export.card import Card, write_card
from hybridnas.export.formats import FORMATS, Format, read_formats, write_program
from hybridnas.export.onnx import export_onnx
from hybridnas.export.parity import Parity, check_file
from hybridnas.export.preprocessing import Preprocessing
from hybridnas.full_training import train_model
from hybridnas.predict import app as predict_app
from hybridnas.predicting import OPEN, Predictor
from hybridnas.report.facts import NUMBER, facts

Command = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def finished(space_file: Path, npz_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on grey images that has weights of a trial beside the winner."""
    folder = tmp_path_factory.mktemp("runs") / "finished"
    with pytest.MonkeyPatch.context() as patch:  # a front of two, whatever the machine and the luck
        patch.setattr("hybridnas.study.objective.Objective.best", lambda self, records: _done(records)[:2])
        patch.setattr("hybridnas.study.loop.Objective.best", lambda self, records: _done(records)[:2])
        run_search(
            SearchConfig(
                space=str(space_file), data=str(npz_file), epochs=1, rungs="1", trials=3, threads=1, baselines="none"
            ).model_copy(update={"out": folder})
        )
    return folder


def test_the_explorers_commands_do_what_they_say(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(
        "hybridnas.exporting.check_file", lambda kind, *_: Parity(kind, "file", 1.0, 0.0, 1.0, 1.0, 2.0)
    )
    monkeypatch.setattr("hybridnas.exporting.read_formats", lambda formats: ["bundle"])
    run = Run.load(finished)
    about = facts(run)
    kept = {trial["number"] for trial in about["trials"] if trial["kept"]}
    assert int(run.best.number) in kept and len(kept) == 2
    export, train = about["runs"][0]["export"], about["runs"][0]["train"]
    for number in kept:
        assert exit_code(export_app, shlex.split(export.replace(NUMBER, str(number)))[2:]) == 0
        assert (tmp_path / f"exported/trial-{number}" / "weights.safetensors").is_file()
    (other,) = {int(number) for number in run.trials.number} - kept
    written, _, trained = train.replace(NUMBER, str(other)).partition(" && ")
    _, _, code, _, file = shlex.split(written)
    capsys.readouterr()
    exec(code)
    (tmp_path / file).write_text(capsys.readouterr().out)
    assert Architecture.from_json((tmp_path / file).read_text()) == run.architecture(other)
    assert shlex.split(trained) == ["hybridnas", "train", file, "--data", run.config.data]


def _done(records: Any) -> list[Any]:
    return [record for record in records if record.status == "complete"]


@pytest.fixture(scope="module")
def exported(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its winner in all formats, each read back in a process of its own."""
    folder = tmp_path_factory.mktemp("exported") / "all"
    assert exit_code(export_app, [str(finished), "--out", str(folder), "--format", ",".join(FORMATS)]) == 0
    return folder


@pytest.fixture
def export(finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Command:
    def call(*flags: object, run: Path = finished) -> tuple[int, str, str]:
        code = exit_code(export_app, [str(run), "--out", str(tmp_path / "out"), *map(str, flags)])
        captured = capsys.readouterr()
        assert "Traceback" not in captured.err
        return code, captured.out, captured.err

    return call


@pytest.fixture
def predict(exported: Path, capsys: pytest.CaptureFixture[str]) -> Command:
    def call(*arguments: object, bundle: Path = exported) -> tuple[int, str, str]:
        code = exit_code(predict_app, [str(bundle), *map(str, arguments)])
        captured = capsys.readouterr()
        assert "Traceback" not in captured.err
        return code, captured.out, captured.err

    return call


@pytest.fixture
def believed(monkeypatch: pytest.MonkeyPatch) -> None:
    """No processes: what is written agrees."""
    monkeypatch.setattr(
        "hybridnas.exporting.check_file", lambda kind, *_: Parity(kind, "file", 1.0, 0.0, 1.0, 1.0, 2.0)
    )


def test_every_format_does_what_was_trained(exported: Path, finished: Path) -> None:
    table = json.loads((exported / "export.json").read_text())
    assert [each["format"] for each in table["files"]] == list(FORMATS)
    for each in table["files"]:
        assert each["difference"] <= 1e-4 and each["agreement"] == 1.0 and each["problem"] == ""
        assert 0 < each["latency_ms_p50"] <= each["latency_ms_p95"]
        assert (exported / each["file"]).is_file()
    run = Run.load(finished)
    assert table["name"] == f"trial {run.best.number}" and table["key"] == run.best.key
    card = (exported / "card.md").read_text()
    assert all(f"| {name} | `{FORMATS[name].files[0]}` |" in card for name in FORMATS)
    assert f"{100 * run.result['test_accuracy']:.1f} %" in card and "top, middle, bottom" in card
    assert f"{run.best.macs / 1e6:.2f} M" in card and run.best.families in card
    assert f"hybridnas train architecture.json --data {run.config.data} --seed 0" in card and "Apache-2.0" in card
    assert (
        f"{run.config.seed} of the search, {run.best.seed} of the trial" in card and Path(run.config.data).stem in card
    )
    assert f"p50 {run.result['targets'][0]['latency_ms_p50']:.2f} ms" in card and version("torch") in card
    assert json.loads((exported / "preprocessing.json").read_text())["interpolation"] == "bilinear"
    assert "Licence: Apache-2.0" in (exported / "model.py").read_text()
    assert (finished / "best" / "card.md").read_text().partition("## Versions")[0].strip() in card


def test_what_is_compared_are_the_validation_images_as_training_saw_them(
    export: Command, finished: Path, npz_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: dict[str, tuple[Tensor, Tensor]] = {}

    def check(kind: str, folder: Path, images: Tensor, expected: Tensor, threads: int) -> Parity:
        seen[kind] = images, expected
        return Parity(kind, "file", 1.0, 0.0, 1.0, 1.0, 2.0)

    monkeypatch.setattr("hybridnas.exporting.check_file", check)
    for kind, form in FORMATS.items():
        if form.write:
            monkeypatch.setitem(FORMATS, kind, replace(form, write=lambda *_: None))
    assert export("--format", ",".join(FORMATS))[0] == 0
    run = Run.load(finished)
    images = open_source(str(npz_file)).load(Loading(16, run.config.seed, run.config.train_images)).validation.images
    written = json.loads((tmp_path / "out" / "preprocessing.json").read_text())
    wanted = ((torch.from_numpy(images.copy()).float() - written["mean"][0]) / written["std"][0]).expand(-1, 3, -1, -1)
    with torch.inference_mode():
        scores = run.best_model()(wanted)
    assert seen.keys() == FORMATS.keys() and len(wanted) == 54  # a fifth of 270
    for found, expected in seen.values():
        torch.testing.assert_close(found, wanted)
        torch.testing.assert_close(expected, scores, rtol=1e-4, atol=1e-4)


def pictures(folder: Path) -> list[Path]:
    """One picture, bright at its top, in several kinds that must all be read alike."""
    values = np.full((16, 16), 60, np.uint8)
    values[:5] += 100
    grey = Image.fromarray(values)
    turned = Image.Exif()
    turned[0x0112] = 6  # shown turned by 90 degrees clockwise
    kinds = {"grey.png": grey, "rgb.png": grey.convert("RGB"), "alpha.png": grey.convert("RGBA")}
    for name, image in kinds.items():
        image.save(folder / name)
    Image.fromarray(values.astype(np.uint16) << 8).save(folder / "deep.png")
    grey.rotate(90).save(folder / "turned.png", exif=turned)
    return sorted(folder.glob("*.png"))


@pytest.mark.parametrize("kind", OPEN)
def test_an_image_of_any_kind_is_classified(
    kind: str, exported: Path, finished: Path, npz_file: Path, tmp_path: Path
) -> None:
    with np.load(npz_file) as file:  # the normalisation of training: of the run's own images
        assert Preprocessing.read(exported).mean[0] == pytest.approx(file["train_images"].mean(), rel=0.05)
    predictor = Predictor.open(exported, kind)
    seen = predictor.preprocessing
    for path in pictures(tmp_path):
        values = np.full((16, 16), 60.0)
        values[:5] += 100
        given = torch.tensor((values - seen.mean[0]) / seen.std[0], dtype=torch.float32).expand(1, 3, 16, 16)
        with torch.inference_mode():
            expected = Run.load(finished).best_model()(given).softmax(-1)[0]
        found = dict(predictor.classify(path, 3).classes)
        assert [found[name] for name in ("top", "middle", "bottom")] == pytest.approx(expected.tolist(), abs=1e-3)


def test_predict_prints_a_row_an_image(predict: Command, exported: Path, finished: Path, tmp_path: Path) -> None:
    paths = pictures(tmp_path)
    code, out, _ = predict(*paths, "--top", 1)
    rows = [line for line in out.splitlines() if line.startswith("│")]
    assert code == 0 and len(rows) == len(paths) and all("%" in row for row in rows)
    predictor = Predictor.open(exported)
    for path, row in zip(paths, rows, strict=True):
        ((name, probability),) = predictor.classify(path, 1).classes
        assert name in row and f"{probability:.1%}" in row
    assert predict(paths[0], bundle=finished)[0] == 0  # a run folder, for its best/


def test_one_damaged_file_costs_no_other_its_answer(predict: Command, finished: Path, tmp_path: Path) -> None:
    for name in ("first", "last"):
        Image.new("RGB", (20, 20)).save(tmp_path / f"{name}.png")
    for name in ("torn", "odd"):
        (tmp_path / f"{name}.png").write_bytes(b"none")
    files = [tmp_path / f"{name}.png" for name in ("first", "torn", "odd", "last")]
    code, out, err = predict(*files)
    assert code == 2 and "first.png" in out and "last.png" in out and "torn" not in out
    lines = err.splitlines()
    assert len(lines) == 2 and all(line.startswith("hybridnas: ") and "cannot be read" in line for line in lines)
    assert "torn.png" in lines[0] and "odd.png" in lines[1]


def test_a_bundle_s_name_is_printed_as_it_is(
    predict: Command, exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    bundle = shutil.copytree(exported, Path("bird [v2] [") / "x]")
    pictures(Path())
    code, out, _ = predict("grey.png", bundle=bundle)
    assert code == 0 and f"by {bundle}/weights.safetensors" in out


def test_model_py_classifies_an_image_by_itself(exported: Path, predict: Command, tmp_path: Path) -> None:
    (path, *_) = pictures(tmp_path)
    command = [sys.executable, "-P", str(exported / "model.py"), str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    (best, *_) = Predictor.open(exported).classify(path, 1).classes
    assert best[0] in done.stdout


def test_what_the_search_writes_is_compared_and_removed_where_it_disagrees(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = Run.load(finished).best_model()
    preprocessing = Preprocessing.read(finished / "best")
    other = copy.deepcopy(model)
    with torch.no_grad():
        next(other.parameters()).add_(1.0)
    monkeypatch.setattr("hybridnas.export.bundle.load_network", lambda *_: other)
    with pytest.raises(HybridNasError, match="the file read back differs from the trained network by"):
        export_bundle(model, tmp_path, preprocessing)
    assert not [*tmp_path.iterdir()]

    write = onnx_form.to_onnx
    export_onnx(model, tmp_path, Setting(runtime="onnxruntime"))
    assert (tmp_path / "model.onnx").is_file()
    monkeypatch.setattr(onnx_form, "to_onnx", lambda _, *about: write(other.deploy(), *about))
    with pytest.raises(CannotRun, match="model.onnx differs from the trained network by"):
        export_onnx(model, tmp_path, Setting(runtime="onnxruntime"))
    assert not (tmp_path / "model.onnx").exists()


def test_model_py_is_not_run_by_predict(exported: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(exported, tmp_path / "copy")
    (copy / "model.py").write_text("raise SystemExit('run')")
    (path, *_) = pictures(tmp_path)
    assert Predictor.open(copy).classify(path, 1).classes == Predictor.open(exported).classify(path, 1).classes


class Wrong(nn.Module):
    """Scores that are a little off: twice what is allowed."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        scores: Tensor = self.network(x)
        return scores + 2e-4 * scores.abs().max().clamp(min=1.0)


@pytest.fixture
def bundle_believed(monkeypatch: pytest.MonkeyPatch) -> None:
    def check(kind: str, *rest: Any) -> Parity:
        return Parity(kind, "model.py", 1.0) if kind == "bundle" else check_file(kind, *rest)

    monkeypatch.setattr("hybridnas.exporting.check_file", check)


@pytest.mark.usefixtures("bundle_believed")
def test_what_disagrees_is_deleted_and_an_error(
    export: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong = Format(("model.pt2",), lambda network, *rest: write_program(Wrong(network), *rest))
    monkeypatch.setitem(FORMATS, "torch-export", wrong)
    code, out, _ = export("--format", "torch-export")
    assert code == 1 and "deleted: its scores differ by 0.0002" in out
    assert not (tmp_path / "out" / "model.pt2").exists()
    (bundle, program) = json.loads((tmp_path / "out" / "export.json").read_text())["files"]
    assert not bundle["problem"] and program["problem"]
    assert "model.pt2" not in (tmp_path / "out" / "card.md").read_text()


def tampering(line: str, instead: str) -> Callable[..., None]:
    """`export_bundle`, whose model.py then has something else in a place."""

    def export_tampered(model: Any, folder: Path, *rest: Any) -> None:
        export_bundle(model, folder, *rest)
        code = (folder / "model.py").read_text()
        assert line in code
        (folder / "model.py").write_text(code.replace(line, instead))

    return export_tampered


def test_a_model_py_that_needs_us_is_deleted_and_an_error(
    export: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    line = "from __future__ import annotations\n"
    monkeypatch.setattr("hybridnas.exporting.export_bundle", tampering(line, f"{line}import hybridnas\n"))
    code, out, _ = export("--format", "bundle")
    assert code == 1 and "deleted: it imports hybridnas" in out
    assert not (tmp_path / "out" / "model.py").exists()


def test_a_model_py_that_disagrees_is_deleted_and_an_error(
    export: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    line = "return self.head(self.stages(self.stem(x)))"
    monkeypatch.setattr("hybridnas.exporting.export_bundle", tampering(line, f"{line} + 0.01"))
    code, out, _ = export("--format", "bundle")
    assert code == 1 and "deleted: its scores differ by 0.01" in out
    left = {path.name for path in (tmp_path / "out").iterdir()}
    assert left == {"architecture.json", "labels.json", "preprocessing.json", "card.md", "export.json"}
    card = (tmp_path / "out" / "card.md").read_text()
    assert "model.py" not in card and "hybridnas predict" not in card and "## Train it again" in card


def test_a_card_says_how_to_use_what_is_there(exported: Path, tmp_path: Path) -> None:
    architecture = Architecture.from_json((exported / "architecture.json").read_text())
    name = "latency, command:./t.sh <img src=x onerror=alert(1)> a|b *c* {model}"
    card = Card("It is one.", {name: "p50 1 ms"}, "data", 0, ["hybridnas"], [])
    files = [Parity("bundle", "model.py", 1.0, problem="it imports hybridnas"), Parity("onnx", "model.onnx", 1.0, 0.0)]
    write_card(card, tmp_path, architecture, Preprocessing.read(exported), files)
    text = (tmp_path / "card.md").read_text()
    assert "hybridnas predict . IMAGE" in text and "model.py" not in text
    (row,) = [line for line in text.splitlines() if "t.sh" in line]
    _, first, second, _ = re.split(r"(?<!\\)\|", row)
    assert re.sub(r"\\(.)", r"\1", first).strip() == name and second.strip() == "p50 1 ms"
    assert not re.search(r"(?<!\\)[<*]", row)


def test_stopped_in_the_middle_it_leaves_nothing_that_was_not_compared(
    export: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopped(kind: str, folder: Path, *_: Any) -> Parity:
        if kind != "bundle":
            assert (folder / "model.pt2").is_file()
            raise KeyboardInterrupt
        return Parity(kind, "model.py", 1.0)

    monkeypatch.setattr("hybridnas.exporting.check_file", stopped)
    assert export("--format", "torch-export")[0] == 130
    assert not [*(tmp_path / "out").iterdir()]


def test_a_reason_is_printed_as_it_is(export: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    reason = "no [bold] form of [/x] :cat:"
    monkeypatch.setattr("hybridnas.exporting.check_file", lambda kind, *_: Parity(kind, "file", 0.0, problem=reason))
    code, out, _ = export("--format", "bundle")
    assert code == 1 and " ".join(out.split()).count("no [bold]") == 1 and "[/x]" in out and ":cat:" in out


@pytest.mark.usefixtures("bundle_believed")
def test_what_cannot_be_read_back_is_deleted(export: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = Format(("model.pt2",), lambda network, size, folder: (folder / "model.pt2").write_bytes(b"no archive"))
    monkeypatch.setitem(FORMATS, "torch-export", broken)
    code, out, _ = export("--format", "torch-export")
    assert code == 1 and "cannot be read back" in out and not (tmp_path / "out" / "model.pt2").exists()


@pytest.mark.usefixtures("believed")
def test_another_trial_says_that_its_training_was_short(export: Command, finished: Path, tmp_path: Path) -> None:
    run = Run.load(finished)
    others = [path.stem.removeprefix("trial-") for path in (finished / "checkpoints").glob("trial-*")]
    (number, *_) = [int(other) for other in others if int(other) != run.best.number]
    assert export("--trial", number, "--format", "bundle")[0] == 0
    card = (tmp_path / "out" / "card.md").read_text()
    row = run.trials[run.trials.number == number].iloc[0]
    assert "not confirmed" in card and f"{100 * row.accuracy:.1f} % (one short training" in card
    assert f"p50 {row.latency_ms_p50:.2f} ms" in card and "in the search" in card
    assert json.loads((tmp_path / "out" / "architecture.json").read_text()) == json.loads(row.architecture)


@pytest.mark.usefixtures("believed")
def test_a_winner_whose_best_is_gone_says_what_its_weights_are(export: Command, finished: Path, tmp_path: Path) -> None:
    folder = changed(finished, tmp_path, lambda folder: shutil.rmtree(folder / "best"))
    code, _, err = export("--format", "bundle", run=folder)
    assert code == 0, err
    run, card = Run.load(finished), (tmp_path / "out" / "card.md").read_text()
    assert f"It is trial {run.best.number}, the winner of" in card
    assert "not confirmed" in card and f"{100 * run.best.accuracy:.1f} % (one short training" in card
    assert f"p50 {run.best.latency_ms_p50:.2f} ms" in card and "in the search" in card
    assert "accuracy, test" not in card and "the exported file" not in card


@pytest.mark.usefixtures("believed")
def test_the_whole_front(export: Command, finished: Path, tmp_path: Path) -> None:
    code, out, _ = export("--all-front", "--format", "bundle")
    run = Run.load(finished)
    kept = {int(path.stem.removeprefix("trial-")) for path in (finished / "checkpoints").glob("trial-*")}
    front = set(run.front().number)
    assert code == 0
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        f"trial-{n}" for n in front & (kept | {run.best.number})
    }
    assert ("left out" in out) == bool(front - kept - {run.best.number})
    rows = [line.split("│")[1:-1] for line in out.splitlines() if line.startswith("│ bundle")]
    assert len(rows) == len([*(tmp_path / "out").iterdir()])
    believed = ["bundle", "file", "1.00", "0.0e+00", "100.0%", "1.00", "2.00"]
    assert [[cell.strip() for cell in row] for row in rows] == [believed] * len(rows)


@pytest.mark.usefixtures("believed")
def test_a_training_is_exported(export: Command, finished: Path, npz_file: Path, tmp_path: Path) -> None:
    folder = tmp_path / "training"
    design = finished / "best" / "architecture.json"
    training = train_model(
        TrainConfig(architecture=str(design), data=str(npz_file), epochs=1, device="cpu", out=folder)
    )
    code, _, err = export("--format", "bundle", run=folder)
    assert code == 0, err
    card = (tmp_path / "out" / "card.md").read_text()
    assert f"{100 * training.test_accuracy:.1f} % (looked at once)" in card and "--epochs 1" in card
    assert (folder / "best" / "card.md").is_file()
    code, _, err = export("--all-front", "--format", "bundle", run=folder)
    assert code == 2 and "one network" in err or "is not empty" in err


@pytest.mark.parametrize(
    ("flags", "problem"),
    [
        (["--trial", 99], "has no trial 99; its trials are numbered 0 to"),
        (["--trial", 0, "--all-front"], "exclude each other"),
        (
            ["--format", "tflite"],
            "--format must be some of bundle,onnx,torch-export,torchscript,openvino, got 'tflite'",
        ),
        (["--data", "nowhere"], "--data nowhere does not exist"),
    ],
)
def test_mistakes_are_one_sentence(export: Command, flags: list[object], problem: str) -> None:
    code, _, err = export(*flags)
    assert code == 2 and problem in err and err.count("\n") == 1


def test_a_folder_in_use_is_left_alone(export: Command, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("x")
    code, _, err = export()
    assert code == 2 and "is not empty" in err and (tmp_path / "out" / "mine").read_text() == "x"


def test_what_is_written_where_no_format_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    assert read_formats(None) == ("bundle", "onnx", "torch-export")
    monkeypatch.setattr("hybridnas.export.formats.find_spec", lambda name: None)
    assert read_formats(None) == ("bundle", "torch-export")


def test_a_format_whose_packages_are_missing(export: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hybridnas.export.formats.find_spec", lambda name: None)
    for name in ("onnx", "openvino"):
        code, _, err = export("--format", name)
        assert code == 2 and f"pip install 'hybridnas[{name}]'" in err


def test_a_file_whose_runtime_is_missing(predict: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hybridnas.predicting.find_spec", lambda name: None)
    code, _, err = predict("any.png", "--format", "onnx")
    assert code == 2 and "model.onnx needs onnxruntime: pip install 'hybridnas[onnx]'." in err


def changed(finished: Path, tmp_path: Path, change: Callable[[Path], object]) -> Path:
    copy = Path(shutil.copytree(finished, tmp_path / "copy"))
    change(copy)
    return copy


def edit(file: str, **fields: object) -> Callable[[Path], object]:
    def change(folder: Path) -> None:
        path = folder / file
        path.write_text(json.dumps(json.loads(path.read_text()) | fields))

    return change


def without_trained(folder: Path) -> None:
    trials = pd.read_csv(folder / "trials.csv")
    trials[["status", "accuracy"]] = "infeasible", None
    trials.to_csv(folder / "trials.csv", index=False)
    (folder / "result.json").unlink()


def without_a_front(folder: Path) -> None:
    trials = pd.read_csv(folder / "trials.csv")
    trials["status"] = "pruned"
    trials.to_csv(folder / "trials.csv", index=False)
    (folder / "result.json").unlink()


def test_a_trial_whose_weights_are_torn_is_one_sentence(export: Command, finished: Path, tmp_path: Path) -> None:
    number = next(
        int(path.stem.removeprefix("trial-"))
        for path in (finished / "checkpoints").glob("trial-*.safetensors")
        if path.stem != f"trial-{Run.load(finished).result['winner']}"
    )

    def tear(folder: Path) -> None:
        file = folder / "checkpoints" / f"trial-{number}.safetensors"
        file.write_bytes(file.read_bytes()[:1000])

    code, _, err = export("--trial", number, "--format", "bundle", run=changed(finished, tmp_path, tear))
    assert code == 2 and "cannot be read" in err and err.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_a_front_of_nothing_is_one_sentence(export: Command, finished: Path, tmp_path: Path) -> None:
    code, _, err = export("--all-front", "--format", "bundle", run=changed(finished, tmp_path, without_a_front))
    assert code == 2 and "has no front yet: no trial was trained to the end" in err and err.count("\n") == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda folder: (folder / "config.json").unlink(), "is no run folder: it has no config.json"),
        (lambda folder: (folder / "result.json").unlink(), "has no winner yet: the search did not end"),
        (lambda folder: (folder / "result.json").write_text("{"), "is damaged"),
        (lambda folder: (folder / "best/weights.safetensors").write_bytes(b"x"), "cannot be read"),
        (lambda folder: (folder / "environment.json").unlink(), "environment.json cannot be read"),
        (edit("config.json", rungs=None), "made by an older version"),
        (edit("config.json", data="gone.npz"), "was trained on gone.npz, which cannot be had here any more"),
        (without_trained, "has no trial that was trained"),
        (
            lambda folder: [shutil.rmtree(folder / name) for name in ("best", "checkpoints")],
            "hybridnas train FILE.json",
        ),
    ],
)
def test_run_folders_that_cannot_be_exported(
    change: Callable[[Path], object], problem: str, export: Command, finished: Path, tmp_path: Path
) -> None:
    code, _, err = export("--format", "bundle", run=changed(finished, tmp_path, change))
    assert code == 2 and problem in err and err.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_data_that_moved_is_named_by_a_flag(
    export: Command, believed: None, finished: Path, npz_file: Path, tmp_path: Path
) -> None:
    folder = changed(finished, tmp_path, edit("config.json", data="gone.npz"))
    assert export("--data", npz_file, "--format", "bundle", run=folder)[0] == 0


@pytest.mark.parametrize(
    ("change", "arguments", "problem"),
    [
        (lambda folder: None, ["nowhere.png"], "nowhere.png cannot be read as an image: No such file"),
        (lambda folder: (folder / "x.png").write_text("x"), ["copy/x.png"], "x.png cannot be read as an image"),
        (lambda folder: None, ["a.png", "--format", "torchscript"], "must be one of bundle, onnx, openvino"),
        (lambda folder: (folder / "model.onnx").unlink(), ["a.png", "--format", "onnx"], "has no model.onnx"),
        (lambda folder: (folder / "model.onnx").write_text("x"), ["a.png", "--format", "onnx"], "cannot be opened"),
        (lambda folder: (folder / "model.xml").write_text("x"), ["a.png", "--format", "openvino"], "cannot be opened"),
        (lambda folder: (folder / "labels.json").unlink(), ["a.png"], "has no labels.json"),
        (lambda folder: (folder / "labels.json").write_text('["a"]'), ["a.png"], "cannot be read"),
        (lambda folder: (folder / "weights.safetensors").write_text("x"), ["a.png"], "cannot be read"),
        (edit("preprocessing.json", image_size=20), ["grey.png", "--format", "onnx"], "does not take these images"),
        (edit("preprocessing.json", image_size=20), ["grey.png"], "architecture.json is for 16 px"),
        (shutil.rmtree, ["a.png"], "is no folder"),
    ],
)
def test_bundles_and_images_that_cannot_be_classified(
    change: Callable[[Path], object],
    arguments: list[str],
    problem: str,
    predict: Command,
    exported: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pictures(tmp_path)
    monkeypatch.chdir(tmp_path)
    code, _, err = predict(*arguments, bundle=changed(exported, tmp_path, change))
    assert code == 2 and problem in err and err.count("\n") == 1


def test_turning_is_what_it_says(tmp_path: Path) -> None:
    """The turned picture of these tests, shown as its tag asks, is the plain one."""
    pictures(tmp_path)
    with Image.open(tmp_path / "turned.png") as turned, Image.open(tmp_path / "grey.png") as grey:
        assert np.array_equal(np.asarray(ImageOps.exif_transpose(turned)), np.asarray(grey))
