"""What is told while a search runs."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest
from fakes import made_up_record
from rich.console import Console

from hybridnas import SearchConfig, SearchSpace
from hybridnas.report import progress as progress_module
from hybridnas.report.progress import SearchDisplay
from hybridnas.study.records import TrialRecord


@pytest.fixture
def records() -> list[TrialRecord]:
    """Six trained trials; the third is the best."""
    space = SearchSpace.load("tiny")
    designs = [space.design(families, size=0.5) for families in list(space.layouts().values())[:6]]
    accuracies = [0.5, 0.6, 0.9, 0.4, 0.5, 0.7]
    made = [made_up_record(number, design) for number, design in enumerate(designs) if design]
    return [replace(record, accuracies=(a,)) for record, a in zip(made, accuracies, strict=True)]


@pytest.mark.parametrize(
    ("before", "left"),
    [
        (0, "about 0:20 left"),  # five in 100 s: one more takes 20
        (4, "about 1:40 left"),  # but one in 100 s where four are an earlier process's
    ],
)
def test_a_search_that_goes_on_counts_its_own_trainings_by_its_own_time(
    records: list[TrialRecord], before: int, left: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress_module.time, "monotonic", lambda: 1100.0)
    display = SearchDisplay(Console(quiet=True), SearchConfig(trials=6), started=1000.0)
    display.take_up(records[:before])
    for count in range(before + 1, 6):
        display.update(SimpleNamespace(records=records[:count], ended=records[count - 1], share=0.0))
    (task,) = display._bar.tasks
    assert task.fields["left"] == left and task.description == "trial 6"
    assert task.fields["best"] == "best 90.0 % at 1.00 ms" and task.completed == pytest.approx(5 / 6)


def test_nothing_is_foreseen_of_a_search_that_trained_nothing_yet(records: list[TrialRecord]) -> None:
    display = SearchDisplay(Console(quiet=True), SearchConfig(trials=6), started=0.0)
    display.take_up(records[:3])
    display.update(SimpleNamespace(records=records[:3], ended=None, share=0.0))
    (task,) = display._bar.tasks
    assert task.fields["left"] == "" and task.fields["best"] == "best 90.0 % at 1.00 ms"
