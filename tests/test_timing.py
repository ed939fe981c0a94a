"""The timers of a run: what is said of a target, and what is remembered of its speed."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import pytest
from fakes import CountingTimer
from rich.console import Console

from hybridnas.cost.measure import Costing
from hybridnas.cost.predict import context_of
from hybridnas.cost.table import Table
from hybridnas.errors import TargetError
from hybridnas.timing import warn_of_drift


def test_a_target_that_is_gone_at_the_very_end_is_a_warning(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    gone, slow = CountingTimer("ssh://pi@edge"), CountingTimer("cpu")

    def drift() -> float:
        raise TargetError("The target ssh://pi@edge stopped answering.")

    monkeypatch.setattr(gone, "drift", drift)
    monkeypatch.setattr(slow, "drift", lambda: 1.3)
    warn_of_drift([gone, slow], Console(width=200))
    said = capsys.readouterr().out
    assert "warning: The target ssh://pi@edge stopped answering." in said and "warning: cpu is 30% slower now" in said


def test_a_run_that_goes_on_leaves_the_speed_that_was_measured_last(tmp_path: Path) -> None:
    with closing(Table(tmp_path / "table.sqlite")) as table:
        timer = CountingTimer()
        for reference_ms, measured, remembered in ((3.0, True, 3.0), (4.2, False, 3.0), (2.5, True, 2.5)):
            timer.reference_ms, timer.measured = reference_ms, measured
            Costing([timer], 3, table)
            assert table.reference_ms(context_of(timer)) == remembered
