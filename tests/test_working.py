"""What does a search's trainings: how many at once, with how many threads, and what is said of memory."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from rich.console import Console

from hybridnas import SearchConfig, working
from hybridnas.study.executors import Serial


@pytest.mark.parametrize(("cores", "workers", "share"), [(8, 1, 8), (8, 3, 2), (2, 2, 1), (2, 5, 1)])
def test_cores_are_shared_out(monkeypatch: pytest.MonkeyPatch, cores: int, workers: int, share: int) -> None:
    monkeypatch.setattr(working, "available_cores", lambda: cores)
    assert working.share_of_cores(workers) == share


def test_more_workers_than_memory_allows_are_started_with_a_warning(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    started = []
    monkeypatch.setattr(working, "Workers", lambda count, setup: started.append(count))
    monkeypatch.setattr(working.psutil, "virtual_memory", lambda: SimpleNamespace(available=1e6))
    dataset = SimpleNamespace(fingerprint=lambda: "abc")
    trainer = SimpleNamespace(threads=1, dataset=dataset, device=torch.device("cpu"))
    working.open_places(SearchConfig(workers=3), trainer, 32, Console(width=200))  # type: ignore[arg-type]
    said = capsys.readouterr().out
    assert started == [3] and "warning: 3 workers need about" in said and "0.0 are free; fewer --workers" in said
    alone = working.open_places(SearchConfig(workers=1), trainer, 32, Console(width=200))  # type: ignore[arg-type]
    assert isinstance(alone, Serial) and not capsys.readouterr().out
