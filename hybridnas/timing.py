"""The timers of a run, and what is said of a target that is busy, slower than last time, or no longer as quick."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

from rich.console import Console

from hybridnas.beginning import read_environment
from hybridnas.config import SearchConfig
from hybridnas.cost.latency import DRIFT, Timer
from hybridnas.cost.predict import context_of
from hybridnas.cost.reference import reference_for
from hybridnas.cost.table import Table
from hybridnas.errors import ConfigError, RunError, TargetError
from hybridnas.report.progress import say


def open_timers(config: SearchConfig, image_size: int, folder: Path | None, console: Console) -> list[Timer]:
    """A timer for each target; of a run that goes on, in the reference speed of its beginning.

    Args:
        config: The settings, all said.
        image_size: Of the largest images that are timed, which says how large a reference network is.
        folder: Of the run that goes on.
        console: Told when a target changed, or is busy.

    Raises:
        RunError: the run's files are damaged.
        TargetError: a target cannot time.
    """
    stored = read_environment(folder)["targets"] if folder else [{}] * len(config.targets)
    assert config.threads
    if len(stored) != len(config.targets):
        raise RunError(f"{folder} is damaged: environment.json and config.json differ in their targets.")
    timers = []
    for target, then in zip(config.targets, stored, strict=True):
        timer = Timer(
            target,
            runtime=config.runtime,
            precision=config.precision,
            batch_size=config.latency_batch_size,
            threads=config.threads,
            reference=reference_for(image_size),
            reference_ms=then.get("reference_ms"),
        )
        if then and then["fingerprint"] != timer.fingerprint:
            changed = [name for name, now in timer.machine.items() if then.get(name) != now and name != "clock_mhz"]
            say(
                console,
                f"warning: {target} is not what it was when the run began ({', '.join(changed)}): its figures of then "
                "and of now cannot be compared.",
                style="bold",
            )
        if (slowdown := timer.slowdown_by_threads()) > 1.5:
            say(
                console,
                f"warning: the machine is busy: {config.threads} threads are {slowdown:.1f} times slower than one. "
                "Latencies will be too high; free its cores, or start with --threads 1.",
                style="bold",
            )
        timers.append(timer)
    return timers


def compare_with_last_time(timers: Sequence[Timer], config: SearchConfig, console: Console) -> None:
    """Compare the machine's speed with what the table remembers; a frozen table's speed is taken.

    Raises:
        ConfigError: a frozen table has no times for a target.
    """
    with closing(Table()) as table:
        for timer in timers:
            before = table.reference_ms(context_of(timer))
            if config.frozen_table:
                if before is None:
                    raise ConfigError(
                        f"The table {table.path} has no times of {timer.target} in this runtime, precision, number of "
                        "threads and batch size; build it by `hybridnas table build SPACE --num-classes N` with these."
                    )
                timer.reference_ms = before
            elif before is not None:
                timer.read_on(before)
                if (slower := timer.reference_ms / before - 1) > DRIFT:
                    say(
                        console,
                        f"warning: {timer.target} is {slower:.0%} slower than last time: its reference network takes "
                        f"{timer.reference_ms:.3g} ms, then {before:.3g} ms. Milliseconds are meant at the speed of "
                        "now; if something else runs there, stop that and start again.",
                        style="bold",
                    )


def about_timer(timer: Timer) -> str:
    """What is timed how, in one line."""
    setting, machine = timer.setting, timer.machine
    device = machine.get("gpu") or machine.get("cpu") or ""
    return (
        f"{timer.target}{f' ({device})' if device else ''}, {setting.runtime} {setting.precision}, threads "
        f"{setting.threads}, batch {setting.batch_size}; milliseconds at the speed of now: reference network in "
        f"{timer.reference_ms:.3g} ms"
    )


def warn_of_drift(timers: Sequence[Timer], console: Console) -> None:
    """Say at a run's end which targets are not as quick as when it began."""
    for timer in timers:
        try:
            drift = timer.drift() - 1
        except TargetError as gone:  # all else is done
            say(console, f"warning: {gone}", style="bold")
            continue
        if abs(drift) > DRIFT:
            how = f"{abs(drift):.0%} {'slower' if drift > 0 else 'faster'}"
            say(
                console,
                f"warning: {timer.target} is {how} now than when the run began. Milliseconds are meant at the speed "
                f"of then: its reference network in {timer.reference_ms:.3g} ms.",
                style="bold",
            )
