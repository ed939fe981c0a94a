"""What a winner is compared with: who is trained, what is kept of it, and what is said."""

from __future__ import annotations

import json
import math
import shutil
import tempfile
import threading
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import huggingface_hub
import pandas as pd
import pytest
import timm
import torch
from fakes import CountingTimer
from rich.console import Console
from safetensors.torch import save_file

from hybridnas import Run, SearchConfig, beginning, run_search, zoo
from hybridnas.comparing import compare_run, trained_before
from hybridnas.cost.budget import Budget
from hybridnas.cost.measure import Costing
from hybridnas.cost.table import Table
from hybridnas.data.loading import Loading
from hybridnas.data.sources import open_source
from hybridnas.errors import TrainingFailed
from hybridnas.pipeline import recipe_of
from hybridnas.proxy.evaluation import Outcome, Task
from hybridnas.proxy.training import Design, Recipe, Trainer, TrainingResult, in_layout, made
from hybridnas.report.tables import summary
from hybridnas.study import baselines
from hybridnas.study.baselines import Baseline
from hybridnas.study.confirm import longer, margin_of_difference
from hybridnas.zoo import of_timm
from hybridnas.zoo.of_timm import BACKBONES, TimmModel, cached_weights

SMALL = "test_resnet"  # timm's, made for tests: 0.5 M parameters


@pytest.fixture(scope="module", autouse=True)
def _small_worlds() -> Any:
    """A zoo of two designs, and two small kinds of timm's models; no network."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(zoo, "names", lambda: ("levit_128", "mobilenetv2_100", "vit_base_patch16_224"))
        patch.setattr(baselines, "BACKBONES", {"ResNet": (SMALL,), "EfficientNet": ("test_efficientnet",)})
        patch.setattr(baselines, "_hub_answers", lambda: False)
        patch.setattr("hybridnas.comparing.LEAST_S", 0.0)
        patch.setattr("hybridnas.comparing.MOST_FINDING_S", 1e9)
        patch.setattr(baselines, "LEAST_S", 0.0)
        patch.setattr("hybridnas.timing.Timer", lambda target, **_: CountingTimer(target))
        yield


@pytest.fixture(scope="module")
def settings(space_file: Path, npz_file: Path) -> dict[str, Any]:
    return {"space": str(space_file), "data": str(npz_file), "epochs": 1, "trials": 2, "threads": 1, "budget_ms": 1000}


@pytest.fixture(scope="module")
def finished(settings: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run compared with timm's models."""
    folder = tmp_path_factory.mktemp("runs") / "finished"
    run_search(SearchConfig(**settings, baselines="timm", out=folder))
    return folder


def test_two_of_timms_models_are_trained_as_the_winner_was(finished: Path) -> None:
    run = Run.load(finished)
    rows = {row["name"]: row for row in run.result["baselines"] if row["kind"] == "timm"}
    assert rows.keys() == {SMALL, "test_efficientnet"}
    winner = next(row for row in run.result["confirmed"] if row["number"] == run.result["winner"])
    for name, row in rows.items():
        params = sum(p.numel() for p in timm.create_model(name, num_classes=3).parameters())
        assert row["params"] == params and row["latency_ms"] == pytest.approx((params + 1) / 1e4)
        assert row["accuracy"] == sum(row["accuracies"]) / 2 and 0 <= row["test_accuracy"] <= 1
        assert row["gain"] == pytest.approx(sum(winner["accuracies"]) / 2 - row["accuracy"]) and row["gain_margin"] > 0
        assert not row["pretrained"] and row["layout"] == ""
    assert not list((finished / "checkpoints").glob("baseline-*"))
    text = summary(run)
    assert "Did it pay off? At" in text and f"timm's {SMALL} (" in text and "from scratch by the same recipe" in text


def test_a_run_that_ended_trains_none_again_and_another_kind_joins_in(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = Path(shutil.copytree(finished, tmp_path / "copy"))
    before = Run.load(folder).result["baselines"]
    trained: list[str] = []

    def train(self: Trainer, design: Design, *_: object, **__: object) -> TrainingResult:
        trained.append(design.key)
        return TrainingResult(made(design, 3), (0.25, 0.5), 0.1)

    monkeypatch.setattr(Trainer, "train", train)
    run_search(SearchConfig(out=folder), resume=True)
    assert trained == [] and Run.load(folder).result["baselines"] == before

    monkeypatch.setattr("hybridnas.comparing._modest", lambda search: math.inf)
    run = run_search(SearchConfig(out=folder, baselines="zoo"), resume=True)
    kinds = [row["kind"] for row in run.result["baselines"]]
    assert len(trained) == 4 and kinds.count("zoo") == 2 and kinds.count("timm") == 2
    names = {row["name"] for row in run.result["baselines"] if row["kind"] == "zoo"}
    assert names == {"levit_128", "mobilenetv2_100"}  # by published accuracy 1 and 2 of what holds 1,000 ms
    assert len(set(trained)) == 2
    levit = replace(zoo.load("levit_128"), image_size=16)
    assert next(row for row in run.result["baselines"] if row["name"] == "levit_128")["layout"] == levit.layout


def test_a_run_of_before_there_were_baselines_is_gone_on_with(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = Path(shutil.copytree(finished, tmp_path / "copy"))
    result = json.loads((folder / "result.json").read_text())
    for name in ("baselines", "baseline_remarks", "covers", "files", "seconds"):
        del result[name]
    for row in result["confirmed"]:
        del row["accuracies"], row["design"]
    (folder / "result.json").write_text(json.dumps(result))
    monkeypatch.setattr(Trainer, "train", None)  # nothing is trained
    run = run_search(SearchConfig(out=folder), resume=True)
    assert run.result["baselines"] == [] and run.result["winner"] == result["winner"]
    (remark,) = run.result["baseline_remarks"]["timm"]
    assert remark.startswith("The winner was not trained longer for lack of time, or by an older version, so nothing")
    assert "Winner: trial" in summary(run)


def test_another_winner_is_not_told_the_gain_of_the_one_before(finished: Path) -> None:
    assert all("gain" in row and "gain_margin" in row for row in Run.load(finished).result["baselines"])
    before = trained_before(finished)
    assert {row["name"] for row in before} >= {SMALL} and not any(
        row.keys() & {"gain", "gain_margin"} for row in before
    )


def test_weights_that_are_not_fetched_in_time_are_done_without(monkeypatch: pytest.MonkeyPatch) -> None:
    arrived = threading.Event()

    def fetch(repository: str, name: str, **_: object) -> str:
        arrived.wait(60)
        return name

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", fetch)
    assert of_timm.downloaded_weights(SMALL, 0.05) is None
    arrived.set()
    assert of_timm.downloaded_weights(SMALL, math.inf) == Path("model.safetensors")


def test_killed_in_the_middle_it_goes_on(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = Path(shutil.copytree(finished, tmp_path / "copy"))
    whole = Run.load(folder).result["baselines"]
    result = json.loads((folder / "result.json").read_text())
    del result["baseline_remarks"]
    result["baselines"] = [row for row in result["baselines"] if row["kind"] == "timm"][:1]
    result["baselines"][0] |= {"accuracies": result["baselines"][0]["accuracies"][:1]}
    (folder / "result.json").write_text(json.dumps(result))
    trained: list[str] = []
    train = Trainer.train
    monkeypatch.setattr(
        Trainer, "train", lambda self, design, *a, **k: (trained.append(design.key), train(self, design, *a, **k))[1]
    )
    run = run_search(SearchConfig(out=folder), resume=True)
    assert len(trained) == 3

    def accuracies(rows: list[dict[str, Any]]) -> dict[str, list[float]]:
        return {row["name"]: row["accuracies"] for row in rows}

    assert accuracies(run.result["baselines"]) == accuracies(whole)


def test_without_time_it_is_said_and_nothing_trained(settings: dict[str, Any], tmp_path: Path) -> None:
    folder = tmp_path / "run"
    run = run_search(SearchConfig(**settings, baselines="none", out=folder))
    assert run.result["baselines"] == [] and "Did it pay off" not in summary(run)
    compare_run(folder, _Ended(), "zoo", lambda: -1.0, print)  # type: ignore[arg-type]
    text = summary(Run.load(folder))
    assert "No time was left to train designs of the zoo beside the winner." in text
    assert "Did it pay off?" in text
    run.result["baseline_remarks"], run.best["design"] = {"zoo": []}, ""
    assert "Did it pay off? That is not known: there was no time to train anything else" in summary(run)


class _Ended:
    """Of a search that ended, what writing its result asks for."""

    spent: ClassVar[dict[str, float]] = {"baselines": 0.0}

    class trainer:  # noqa: N801
        class dataset:  # noqa: N801
            num_weighed = 60


def test_another_takes_the_place_of_one_that_failed_among_three_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    candidates = [Baseline(f"{i}", "zoo", zoo.load("levit_128"), 1, 1, [1.0], 1.0) for i in range(4)]
    begun: list[int] = []

    class Places:
        num_places = 3

        def submit(self, task: Task) -> None:
            begun.append(task.number)

        def wait(self, on_step: object) -> tuple[Task, object]:
            number = next(i for i in begun if i not in ended)
            ended.append(number)
            task = SimpleNamespace(number=number, weights=Path("w"), recipe=Recipe(2))
            return task, TrainingFailed("diverged") if number == 0 else Outcome((0.5,), 1.0)  # type: ignore[return-value]

    ended: list[int] = []
    monkeypatch.setattr(baselines, "NUM_SEEDS", 1)
    monkeypatch.setattr(baselines, "_least_seconds", lambda search, each: 0.0)
    monkeypatch.setattr(baselines, "_test_accuracy", lambda search, design, weights: 0.5)
    monkeypatch.setattr(baselines, "_task", lambda search, each, place, number, left: SimpleNamespace(number=place))
    search = SimpleNamespace(places=Places(), trainer=SimpleNamespace(dataset=SimpleNamespace(num_classes=3)))
    said = baselines.train_baselines(search, candidates, lambda: 100.0, print, lambda: None)  # type: ignore[arg-type]
    assert [each.accuracies for each in candidates] == [[], [0.5], [0.5], []] and begun == [0, 1, 2]
    assert said == ["0 was left out: diverged."]


def test_without_time_for_any_nothing_is_begun_and_all_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    class Places:
        num_places = 2

        def submit(self, task: Task) -> None:
            raise AssertionError("nothing fits")

    monkeypatch.setattr(baselines, "_least_seconds", lambda search, each: 60.0 * (each.latency_ms or 0.0))
    candidates = [Baseline(name, "zoo", zoo.load("levit_128"), 1, 1, [1.0], 1.0) for name in ("a", "b", "c")]
    search = SimpleNamespace(places=Places(), trainer=SimpleNamespace(dataset=SimpleNamespace(num_classes=3)))
    said = baselines.train_baselines(search, candidates, lambda: 59.0, print, lambda: None)  # type: ignore[arg-type]
    assert said == ["There was no time left to train a, b, c."]
    assert not any(each.accuracies for each in candidates)


def test_of_each_kind_the_slowest_that_fits_is_taken_and_none_beyond_is_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    kinds = {
        "ResNet": (SMALL, "resnet10t", "resnet18"),
        "others": ("test_efficientnet", "test_byobnet", "resnet10t", "resnet18"),
        "too large": ("resnet10t", SMALL),
    }
    monkeypatch.setattr(baselines, "BACKBONES", kinds)
    opened: list[int] = []
    timer = CountingTimer(before=lambda network: opened.append(params_of(network)))  # type: ignore[arg-type]
    size = {name: params_of(timm.create_model(name, num_classes=3)) for names in kinds.values() for name in names}
    assert (
        size["test_efficientnet"] < size["test_byobnet"] < size[SMALL] < size["resnet10t"] / 2
    )  # as the kinds have it
    budget = Budget(2 * size[SMALL] / 1e4)
    search = SimpleNamespace(
        budget=budget,
        costing=SimpleNamespace(timers=[timer], reference_ms=[1.0]),
        trainer=SimpleNamespace(dataset=SimpleNamespace(num_classes=3)),
    )
    found, (told,) = baselines.find_models(search, 16, lambda: 1.0)  # type: ignore[arg-type]
    assert [each.name for each in found] == [SMALL, "test_byobnet"]  # the slower first
    assert [each.latency_ms for each in found] == [pytest.approx((size[each.name] + 1) / 1e4) for each in found]
    once = [SMALL, "test_efficientnet", "test_byobnet"]
    assert sorted(opened) == sorted([*(size[name] for name in once), *3 * [size["resnet10t"]]])
    assert told.startswith(f"Of timm's models (3 kinds, 6 models timed) 2 kinds have one within the budget: {SMALL}, ")


def params_of(network: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def test_designs_of_the_zoo_are_timed_on_every_target_as_far_as_these_hold_the_budget() -> None:
    networks = {name: made(replace(zoo.load(name), image_size=16), 3) for name in zoo.names()}
    ms = {name: (params_of(network.deploy()) + 1) / 1e4 for name, network in networks.items()}  # type: ignore[operator]
    timed: list[str] = []
    timers = [
        CountingTimer("a", before=lambda network: timed.append("a")),
        CountingTimer("b", slowness=2.0, before=lambda network: timed.append("b")),
    ]
    small, large, _ = sorted(ms, key=lambda name: ms[name])
    with tempfile.TemporaryDirectory() as folder, closing(Table(Path(folder) / "cost.sqlite")) as table:
        search = SimpleNamespace(
            records=[],
            budget=Budget((ms[large] * 1.1, ms[small] * 2.2)),
            costing=Costing(timers, 3, table),
            trainer=SimpleNamespace(dataset=SimpleNamespace(num_classes=3)),
        )
        (found,), _ = baselines.find_designs(search, 16, lambda: 1.0)  # type: ignore[arg-type]
    assert found.name == small and found.targets_ms == pytest.approx([ms[small], 2 * ms[small]])
    assert found.worst_latency == pytest.approx(1 / 1.1)
    assert sorted(timed) == ["a", "a", "a", "b", "b"]  # the largest is over the first budget


def test_the_best_known_design_beside_the_winner_is_what_it_is_compared_with(finished: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(finished, tmp_path / "copy"))
    trials = pd.read_csv(folder / "trials.csv", dtype="string", keep_default_na=False)
    trials = pd.concat([trials.iloc[:1].assign(number=str(number)) for number in range(4)])
    trials.to_csv(folder / "trials.csv", index=False)
    result = json.loads((folder / "result.json").read_text())
    row = result["confirmed"][0] | {"test_accuracy": 0.5, "targets_ms": [1.5, 2.5], "worst_latency": 0.5}
    known = {0: ("winner", (0.9, 0.8)), 1: ("good", (0.6, 0.7)), 2: ("better", (0.7, 0.76)), 3: ("", (0.8, 0.84))}
    result["winner"], result["baselines"] = 0, []
    result["confirmed"] = [
        row | {"number": number, "design": name, "accuracies": list(found), "accuracy": sum(found) / 2}
        for number, (name, found) in known.items()
    ]
    (folder / "result.json").write_text(json.dumps(result))
    compare_run(folder, _Ended(), "zoo", lambda: -1.0, print)  # type: ignore[arg-type]
    (seeded,) = Run.load(folder).result["baselines"]
    assert (seeded["name"], seeded["kind"], seeded["accuracies"]) == ("better", "seeded", [0.7, 0.76])
    assert seeded["targets_ms"] == [1.5, 2.5] and seeded["worst_latency"] == 0.5
    assert seeded["gain"] == pytest.approx(0.85 - 0.73)
    every = [found for _, found in known.values()]
    assert seeded["gain_margin"] == pytest.approx(margin_of_difference(every[0], every[2], every, 60))


def weights_of(model: torch.nn.Module, file: Path) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    save_file({name: value.contiguous() for name, value in model.state_dict().items()}, file)
    return file


def test_cached_weights_are_found_and_trained_on(
    npz_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A folder laid out as the hub's client leaves it."""
    repository = timm.get_pretrained_cfg(SMALL).hf_hub_id
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    assert cached_weights(SMALL) is None
    folder = tmp_path / f"models--{repository.replace('/', '--')}"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text("abc")
    theirs = timm.create_model(SMALL)
    file = weights_of(theirs, folder / "snapshots" / "abc" / "model.safetensors")
    assert cached_weights(SMALL) == file

    design = baselines._with_weights(TimmModel(SMALL, 16), 3, None, 60.0)
    assert isinstance(design, TimmModel) and design.weights == file and design.key != TimmModel(SMALL, 16).key
    ours, fresh = design.build(3).state_dict(), TimmModel(SMALL, 16).build(3).state_dict()
    same = [name for name in ours if torch.equal(ours[name], theirs.state_dict().get(name, torch.empty(0)))]
    assert {name for name in ours if name not in same} == {"fc.weight", "fc.bias"}  # a head of their own
    assert not torch.equal(fresh["conv1.0.weight"], ours["conv1.0.weight"])
    trainer = Trainer(open_source(str(npz_file)).load(Loading(16)), torch.device("cpu"), threads=1)
    result = trainer.train(design, Recipe(1, learning_rate=1e-9), seed=0)
    kept = result.model.state_dict()["conv1.0.weight"]
    assert torch.allclose(kept, theirs.state_dict()["conv1.0.weight"], atol=1e-6)


@pytest.mark.parametrize("answers", [True, False], ids=["the hub gives them", "the hub fails"])
def test_weights_are_fetched_or_done_without_and_that_is_said(
    answers: bool, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    theirs = timm.create_model(SMALL)
    file, asked = weights_of(theirs, tmp_path / "hub" / "model.safetensors"), []

    def fetch(repository: str, name: str, **_: object) -> str:
        asked.append((repository, name))
        if not answers:
            raise OSError("429 Too Many Requests")
        return str(file)

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", fetch)
    monkeypatch.setattr(baselines, "_hub_answers", lambda: True)
    folder = Path(shutil.copytree(finished, tmp_path / "copy"))
    result = json.loads((folder / "result.json").read_text())
    del result["baseline_remarks"]
    result["baselines"] = []
    (folder / "result.json").write_text(json.dumps(result))
    monkeypatch.setattr(baselines, "BACKBONES", {"ResNet": (SMALL,)})
    begun: list[Design] = []
    recipes: list[Recipe] = []
    train = Trainer.train

    def note(self: Trainer, design: Design, recipe: Recipe, **rest: Any) -> TrainingResult:
        begun.append(design)
        recipes.append(recipe)
        return train(self, design, recipe, **rest)

    monkeypatch.setattr(Trainer, "train", note)
    run = run_search(SearchConfig(out=folder), resume=True)
    as_confirmed = longer(recipe_of(run.config))
    assert as_confirmed.epochs == 2 * (run.config.epochs or 0) == run.result["epochs"]
    rate = baselines.FINE_TUNING_RATE if answers else as_confirmed.learning_rate
    assert recipes == 2 * [replace(as_confirmed, learning_rate=rate)]
    assert asked == [(timm.get_pretrained_cfg(SMALL).hf_hub_id.partition("@")[0], "model.safetensors")]
    assert begun == 2 * [TimmModel(SMALL, 16, file if answers else None)]
    (row,) = [row for row in run.result["baselines"] if row["kind"] == "timm"]
    assert row["pretrained"] == answers
    how = "fine-tuned from pretrained weights" if answers else "trained from scratch by the same recipe"
    assert f"timm's {SMALL}, {row['latency_ms']:.2f} ms, {how}:" in summary(run)


def test_weights_of_something_else_are_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = weights_of(timm.create_model("test_efficientnet"), tmp_path / "other.safetensors")
    with pytest.raises(TrainingFailed, match="its pretrained weights cannot be used"):
        TimmModel(SMALL, 16, file).build(3)
    monkeypatch.setattr(baselines, "cached_weights", lambda name: file)
    assert baselines._with_weights(TimmModel(SMALL, 16), 3, None, 60.0) == TimmModel(SMALL, 16)


def test_weights_that_were_given_come_first_and_must_fit(
    settings: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(beginning, "BACKBONES", baselines.BACKBONES)
    for name in (SMALL, "test_efficientnet"):
        weights_of(timm.create_model(SMALL), tmp_path / "weights" / f"{name}.safetensors")
    folder, weights = tmp_path / "run", str(tmp_path / "weights")
    run_search(SearchConfig(**settings, baselines="none", out=folder))
    run = run_search(SearchConfig(baselines="timm", baseline_weights=weights, out=folder), resume=True)
    assert [row["name"] for row in run.result["baselines"] if row["kind"] == "timm" and row["pretrained"]] == [SMALL]
    said = " ".join(run.result["baseline_remarks"]["timm"])
    assert "test_efficientnet was left out: its pretrained weights cannot be used: " in said
    text = summary(run)
    assert f"timm's {SMALL} (" in text and "fine-tuned from pretrained weights" in text
    shutil.rmtree(weights)
    run = run_search(SearchConfig(baselines="zoo", out=folder), resume=True)
    assert run.config.baseline_weights is None
    assert [row["name"] for row in run.result["baselines"] if row["pretrained"]] == [SMALL]


def test_weights_that_come_late_are_not_used_and_that_is_said(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(beginning, "BACKBONES", baselines.BACKBONES)
    weights_of(timm.create_model(SMALL), tmp_path / "weights" / f"{SMALL}.safetensors")
    folder = shutil.copytree(finished, tmp_path / "run")
    before = Run.load(folder).result["baselines"]
    given = SearchConfig(baselines="timm", baseline_weights=str(tmp_path / "weights"), out=folder)
    run = run_search(given, resume=True, console=Console(width=200))
    assert f"{SMALL}: trained from scratch before, and weights in " in capsys.readouterr().out
    assert run.result["baselines"] == before


def test_a_hub_that_is_not_there_costs_no_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")
    assert not of_timm.hub_answers()


@pytest.mark.parametrize("name", [name for names in BACKBONES.values() for name in names])
def test_the_models_are_timms(name: str) -> None:
    assert timm.is_model(name)


def test_the_interval_of_a_difference() -> None:
    # Pooled variance 5e-4 of two designs with two seeds: two degrees of freedom, t = 4.303.
    every = [(0.70, 0.72), (0.60, 0.64), (0.5,)]
    deviation = 5e-4**0.5
    assert margin_of_difference(every[0], every[1], every, 10**6) == pytest.approx(4.3027 * deviation, rel=1e-4)
    one_seed = margin_of_difference(every[0], every[2], every, 10**6)
    assert one_seed == pytest.approx(4.3027 * deviation * 1.5**0.5, rel=1e-4)
    # Of 403.84 images as if 321.92 were right, and 201.92 (Agresti and Coull, 1998).
    both = (0.79715 * 0.20285 + 0.5 * 0.5) / 403.8415
    assert margin_of_difference((0.8,), (0.5,), [(0.8,), (0.5,)], 400) == pytest.approx(1.95996 * both**0.5, rel=1e-4)
    # Two seeds that agree by chance do not make it sure.
    found = margin_of_difference((0.8,), (0.5, 0.5), [(0.8,), (0.5, 0.5)], 400)
    assert found == pytest.approx(1.95996 * both**0.5, rel=1e-4)


def row(kind: str, gain: float, margin: float, ms: float, **fields: Any) -> dict[str, Any]:
    return {
        "name": "a", "kind": kind, "gain": gain, "gain_margin": margin, "latency_ms": ms, "pretrained": False,
        "accuracy": 0.5, "accuracies": [0.5], "test_accuracy": 0.5, **fields,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("baseline", "expected"),
    [
        (
            row("seeded", 0.021, 0.017, 4.1),
            "2.1 points (95 % interval 0.4 to 3.8) more accurate than the best known design in the space, a (4.10 ms).",
        ),
        (
            row("timm", -0.02, 0.01, 4.1, pretrained=True),
            "2.0 points (95 % interval 1.0 to 3.0) less accurate than timm's a (4.10 ms, fine-tuned from pretrained "
            "weights): use that.",
        ),
        (
            row("zoo", 0.01, 0.02, 2.9),
            "no better for sure than the zoo's a (2.90 ms, trained from scratch by the same recipe), +1.0 points, "
            "95 % interval -1.0 to +3.0: use that.",
        ),
        (row("zoo", -0.01, 0.02, 4.0), "95 % interval -3.0 to +1.0, but faster."),
    ],
)
def test_the_sentence(finished: Path, baseline: dict[str, Any], expected: str) -> None:
    run = Run.load(finished)
    run.result["baselines"] = [baseline]
    run.result["targets"][0]["latency_ms_p50"] = 3.2
    run.best["design"] = ""
    sentence = next(line for line in summary(run).splitlines() if line.startswith("Did it pay off?"))
    assert sentence.startswith("Did it pay off? At 3.20 ms the winner is ") and sentence.endswith(expected)
    run.result["baselines"] = [baseline, row("timm", 0.5, 0.1, 3.0)]
    both = next(line for line in summary(run).splitlines() if line.startswith("Did it pay off?"))
    assert both.startswith(f"{sentence[:-1]}; 50.0 points (95 % interval 40.0 to 60.0) more accurate than timm's a (")


def test_the_sentence_of_a_known_design_that_won(finished: Path) -> None:
    run = Run.load(finished)
    run.best["design"] = "C-T"
    run.result["baselines"] = [row("zoo", 0.05, 0.02, 2.9)]
    run.result["targets"][0]["latency_ms_p50"] = 3.2
    assert "Did it pay off? At 3.20 ms the winner, itself the known design C-T, is 5.0 points (" in summary(run)
    run.result["baselines"] = []
    assert "Did it pay off? The winner is itself the known design C-T." in summary(run)


def test_a_strided_convolution_of_an_image_trains(npz_file: Path) -> None:
    """torch 2.15 dies of this one in channels-last memory; the layer keeps its meaning in the other."""
    torch.manual_seed(0)
    plain = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 1, 2), torch.nn.Conv2d(8, 8, 3))
    images = torch.randn(4, 3, 16, 16)
    expected = torch.autograd.grad(plain(images).square().mean(), [*plain.parameters()])
    found = torch.autograd.grad(
        in_layout(plain, torch.channels_last)(images.to(memory_format=torch.channels_last)).square().mean(),
        [*plain.parameters()],
    )
    assert plain[0].weight.is_contiguous() and plain[1].weight.is_contiguous(memory_format=torch.channels_last)
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(found, expected, strict=True))
