"""What does a search's trainings: how many at once, with how many threads, and what is said of memory."""

from __future__ import annotations

import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from rich.console import Console

from hybridnas import SearchConfig, run_search, working
from hybridnas.cli import exit_code
from hybridnas.errors import RunError
from hybridnas.search import app
from hybridnas.space import SearchSpace
from hybridnas.study.executors import Serial
from hybridnas.study.forking import PRELOADED


@pytest.mark.parametrize(("cores", "workers", "share"), [(8, 1, 8), (8, 3, 2), (2, 2, 1), (2, 5, 1)])
def test_cores_are_shared_out(monkeypatch: pytest.MonkeyPatch, cores: int, workers: int, share: int) -> None:
    monkeypatch.setattr(working, "available_cores", lambda: cores)
    assert working.share_of_cores(workers) == share


def test_what_workers_are_forked_off_imports_what_they_need() -> None:
    """A server that cannot says nothing, and each worker takes six seconds."""
    code = f"import sys, {PRELOADED}; print({{'hybridnas.working', 'torch', 'timm'}} <= {{*sys.modules}})"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "True\n"


def test_on_a_cluster_that_is_elsewhere_no_cores_of_this_machine_are_shared_out() -> None:
    assert working.workers_here(SearchConfig(workers=4)) == 4
    assert working.workers_here(SearchConfig(workers=4, executor="ray")) == 4
    assert working.workers_here(SearchConfig(workers=4, executor="ray", ray_address="head:6379")) == 1


@pytest.mark.parametrize(
    ("cores", "free", "given", "image_size", "workers"),
    [
        (2, 1e12, {}, 32, 2),
        (64, 1e12, {}, 64, 4),
        (64, 1.0, {}, 32, 1),
        (64, 1e12, {}, 96, 1),
        (64, 1e12, {"device": "cuda"}, 32, 1),
        (64, 1e12, {"frozen_table": True}, 32, 1),
        (64, 1e12, {"executor": "ray"}, 32, 1),
    ],
)
def test_how_many_workers_pay(
    monkeypatch: pytest.MonkeyPatch,
    cores: int,
    free: float,
    given: dict[str, object],
    image_size: int,
    workers: int,
) -> None:
    monkeypatch.setattr(working, "MOST_WORKERS", 4)
    monkeypatch.setattr(working, "available_cores", lambda: cores)
    monkeypatch.setattr(working.psutil, "virtual_memory", lambda: SimpleNamespace(available=free))
    config = SearchConfig(**{"device": "cpu", **given})  # type: ignore[arg-type]
    assert working.workers_that_pay(config, image_size) == workers


@pytest.mark.parametrize(("flags", "chosen"), [({"space": "72 px"}, 1), ({"image_size": 64}, 4), ({}, 4)])
def test_what_is_small_is_what_is_trained_on(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, flags: dict[str, Any], chosen: int
) -> None:
    """The embedded images have no size of their own: the space has."""
    if "space" in flags:
        text = SearchSpace.load("tiny").text
        assert "image_size: [32]" in text
        (tmp_path / "large.yaml").write_text(text.replace("image_size: [32]", "image_size: [72]"))
        flags = {"space": str(tmp_path / "large.yaml")}
    seen: list[SearchConfig] = []

    def stop(config: SearchConfig, *_: object) -> None:
        seen.append(config)
        raise RunError("seen")

    monkeypatch.setattr(working, "MOST_WORKERS", 4)
    monkeypatch.setattr(working, "available_cores", lambda: 8)
    monkeypatch.setattr("hybridnas.pipeline.open_timers", stop)
    with pytest.raises(RunError, match="seen"):
        run_search(SearchConfig(workers=None, device="cpu", train_images=50, out=tmp_path / "run", **flags))
    assert seen[0].workers == chosen


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        ([], {"workers": None}),
        (["--workers", "auto"], {"workers": None}),
        (["--workers", "3"], {"workers": 3}),
        (["--resume"], {}),
    ],
)
def test_the_command_takes_as_many_as_pay(
    monkeypatch: pytest.MonkeyPatch, flags: list[str], told: dict[str, int | None]
) -> None:
    """In Python one is the default; a run that goes on has those that it had. The others are prepared meanwhile."""
    seen: list[SearchConfig] = []
    prepared: list[bool] = []
    monkeypatch.setattr("hybridnas.search._prepare_workers", lambda: prepared.append(not seen))
    monkeypatch.setattr("hybridnas.pipeline.run_search", lambda config, **_: seen.append(config))
    assert exit_code(app, flags) == 0
    assert seen == [SearchConfig(**told)] and seen[0].model_fields_set == {*told}  # type: ignore[arg-type]
    assert SearchConfig().workers == 1
    assert prepared == [True] * (flags != ["--resume"])


def test_on_several_gpus_workers_have_one_each_in_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = SimpleNamespace(fingerprint=lambda: "abc")
    monkeypatch.setattr(working, "open_source", lambda data: SimpleNamespace(load=lambda loading: dataset))
    monkeypatch.setattr(working, "local_device", torch.device)
    monkeypatch.setattr(working, "Trainer", lambda dataset, device, threads: device)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)

    def device(name: str, place: int) -> torch.device:
        evaluate = working._set_up(SearchConfig(device=name), 32, "abc", 1, place)
        return evaluate.args[0]  # type: ignore[attr-defined, no-any-return]

    assert [str(device("cuda", place)) for place in range(3)] == ["cuda:0", "cuda:1", "cuda:0"]
    assert [str(device("cuda:1", place)) for place in range(3)] == 3 * ["cuda:1"]  # as it was asked for
    assert str(device("cpu", 1)) == "cpu"


@pytest.mark.parametrize(("device", "gpus"), [("cpu", 0), ("cuda:1", 1)])
def test_a_trainer_on_ray_asks_for_the_cores_and_the_gpu_that_it_needs(
    monkeypatch: pytest.MonkeyPatch, device: str, gpus: int
) -> None:
    asked: list[dict[str, object]] = []
    monkeypatch.setattr(working, "OnRay", lambda count, setup, **named: asked.append({"count": count, **named}))
    dataset = SimpleNamespace(fingerprint=lambda: "abc")
    trainer = SimpleNamespace(threads=3, dataset=dataset, device=torch.device(device))
    config = SearchConfig(workers=5, executor="ray", ray_address="head:6379")
    working.open_places(config, trainer, 32, Console(width=200))  # type: ignore[arg-type]
    assert asked == [{"count": 5, "address": "head:6379", "cpus": 3, "gpus": gpus}]


def test_more_workers_than_memory_allows_are_started_with_a_warning(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    started: list[tuple[int, Callable[..., object]]] = []
    monkeypatch.setattr(working, "Workers", lambda *given: started.append(given))
    monkeypatch.setattr(working.psutil, "virtual_memory", lambda: SimpleNamespace(available=1e6))
    dataset = SimpleNamespace(fingerprint=lambda: "abc")
    trainer = SimpleNamespace(threads=1, dataset=dataset, device=torch.device("cpu"))
    config = SearchConfig(workers=3, storage="postgresql://nas:s3cret@db/nas", study="birds")
    working.open_places(config, trainer, 32, Console(width=200))  # type: ignore[arg-type]
    said = capsys.readouterr().out
    ((count, setup),) = started
    assert count == 3 and "warning: 3 workers need about" in said and "0.0 are free; fewer --workers" in said
    told = pickle.dumps(setup)
    assert b"synthetic" in told and b"s3cret" not in told
    alone = working.open_places(SearchConfig(workers=1), trainer, 32, Console(width=200))  # type: ignore[arg-type]
    assert isinstance(alone, Serial) and not capsys.readouterr().out
