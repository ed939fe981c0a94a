"""Filling the table of parts ahead of a search, and comparing what it predicts with networks that are timed."""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table as Lines
from scipy.stats import spearmanr

from hybridnas.architecture import Architecture
from hybridnas.cost.latency import Latency, Timer, available_cores
from hybridnas.cost.parts import Timing
from hybridnas.cost.predict import TOGETHER, Counter, Prediction, Predictor
from hybridnas.cost.reference import reference_for
from hybridnas.cost.runtimes import Setting
from hybridnas.cost.table import Table
from hybridnas.cost.targets import best_device
from hybridnas.cost.whole import parts_in, timings_in
from hybridnas.errors import CannotRun, ConfigError
from hybridnas.report.progress import say
from hybridnas.space import SearchSpace

#: How far off a prediction may be to count as near.
NEAR = 0.1
#: Where no bar can be drawn, a line comes so often.
LINE_S = 10.0
#: A space is drawn from so many times for each network that is wanted, before it counts as used up.
DRAWS = 50


@dataclass(frozen=True)
class Checked:
    """A network that was predicted, then timed."""

    architecture: Architecture
    predicted: Prediction
    measured: Latency

    @property
    def error(self) -> float:
        """How far the prediction lies over what was measured, as a share of that."""
        return self.predicted.ms / self.measured.p50 - 1


def open_predictor(
    table: Table,
    target: str | None,
    runtime: str,
    precision: str,
    batch_size: int,
    threads: int | None,
    num_classes: int,
    image_size: int,
) -> Predictor:
    """A predictor for the target that the flags say; None is the best local device, with all cores.

    Networks for images of up to `image_size` pixels a side are timed.

    Raises:
        ConfigError: the target is unknown or cannot do this.
        TargetError: it cannot be reached.
    """
    setting = Setting(runtime, precision, batch_size, threads or available_cores(), reference_for(image_size))
    timer = Timer(target or best_device(), **asdict(setting))
    return Predictor(Counter(table, num_classes), timer)


def fill_space(predictor: Predictor, space: SearchSpace, console: Console, *, seconds: float | None = None) -> None:
    """Count and time every part of a space that the table lacks, until all is there or `seconds` are over.

    Raises:
        TargetError: the target is gone. What finished is kept.
    """
    end = time.monotonic() + (seconds or float("inf"))
    counter = predictor.counter
    parts = parts_in(space, counter.num_classes)
    uncounted = counter.lacking(parts)
    say(console, f"{space.name}: {len(parts)} parts, {len(parts) - len(uncounted)} counted before")
    with _progress(console, "counting", len(uncounted)) as tell:
        for done, part in enumerate(uncounted, 1):
            if time.monotonic() > end:
                say(console, f"The time is over: {len(uncounted) - done + 1} parts are still to count.")
                return
            counter.count_of(part)
            tell(done)

    timings = list(timings_in(space, counter.num_classes, predictor.lays_last))
    missing = predictor.lacking(timings)
    say(console, f"{len(timings)} times of parts, {len(timings) - len(missing)} of them there before")
    failed: list[str] = []
    with _progress(console, "timing", len(missing)) as tell:
        for start in range(0, len(missing), TOGETHER):
            if time.monotonic() > end:
                say(console, f"The time is over: {len(missing) - start} are still to time.")
                return
            group = missing[start : start + TOGETHER]
            _fill(predictor, group, failed.append)
            tell(start + len(group))
    for sentence in dict.fromkeys(failed):
        say(console, f"cannot run: {sentence}")
    say(console, f"The table is complete{f' but for {len(failed)}' if failed else ''}.")


def check_space(
    predictor: Predictor, space: SearchSpace, console: Console, *, num_networks: int, seed: int
) -> list[Checked]:
    """Predict random networks of a space, then time them; the calibration learns from each afterwards.

    Networks that it has learnt from already are not drawn. Networks that the target cannot run are left out.

    Raises:
        ConfigError: there is none to check.
        TargetError: the target is gone. What finished is kept.
    """
    networks = _draw(predictor, space, num_networks, seed)
    missing = predictor.missing(networks)
    say(console, f"{len(networks)} networks, {len(missing)} times of their parts are missing")
    with _progress(console, "timing parts", len(missing)) as tell:
        for start in range(0, len(missing), TOGETHER):
            _fill(predictor, missing[start : start + TOGETHER], lambda sentence: say(console, sentence))
            tell(min(start + TOGETHER, len(missing)))
    found = []
    with _progress(console, "timing networks", len(networks)) as tell:
        for done, network in enumerate(networks, 1):
            try:
                latency, foreseen = predictor.measure(network)
            except CannotRun as error:
                say(console, f"{network.families}: {error}")
            else:
                assert foreseen  # its parts are timed
                found.append(Checked(network, foreseen, latency))
            tell(done)
    if not found:
        raise ConfigError(f"The target {predictor.timer.target} can run none of the networks that were drawn.")
    return found


def check_table(checked: Sequence[Checked]) -> Lines:
    """A line a network, the fastest first."""
    lines = Lines()
    lines.add_column("families", overflow="fold")
    for name in ("px", "predicted ms", "95 % interval", "measured ms", "error"):
        lines.add_column(name, justify="right")
    for each in sorted(checked, key=lambda each: each.measured.p50):
        foreseen = each.predicted
        lines.add_row(
            each.architecture.families,
            str(each.architecture.image_size),
            f"{foreseen.ms:.4g}",
            f"{foreseen.low:.4g} to {foreseen.high:.4g}",
            f"{each.measured.p50:.4g}",
            f"{100 * each.error:+.1f} %",
        )
    return lines


def summary(checked: Sequence[Checked]) -> str:
    """How near the predictions came, in one line."""
    errors = [abs(each.error) for each in checked]
    inside = sum(each.predicted.low <= each.measured.p50 <= each.predicted.high for each in checked)
    near = sum(error <= NEAR for error in errors)
    predicted, measured = [each.predicted.ms for each in checked], [each.measured.p50 for each in checked]
    ranked = len(set(predicted)) > 1 and len(set(measured)) > 1  # else there is no order to compare
    order = f", Spearman {float(spearmanr(predicted, measured)[0]):.3f}" if ranked else ""
    return (
        f"Within {100 * NEAR:.0f} %: {near} of {len(checked)} ({100 * near / len(checked):.0f} %); median error "
        f"{100 * statistics.median(errors):.1f} %; inside the 95 % interval: {inside} of {len(checked)}{order}."
    )


def _draw(predictor: Predictor, space: SearchSpace, num_networks: int, seed: int) -> list[Architecture]:
    generator = random.Random(seed)
    found: dict[str, Architecture] = {}
    for _ in range(DRAWS * num_networks):
        if len(found) == num_networks:
            break
        network = space.sample(lambda name, values: generator.choice(values))
        if not predictor.knows(network):
            found.setdefault(network.key, network)
    if not found:
        raise ConfigError(
            f"All networks of the space {space.name} that were drawn have been timed before; "
            f"forget them with `hybridnas table clear {predictor.context}`, or give another --seed."
        )
    return list(found.values())


def _fill(predictor: Predictor, group: Sequence[Timing], leave_out: Callable[[str], None]) -> None:
    try:
        predictor.fill(group, leave_out=leave_out)
    except CannotRun as error:  # in the middle of timing, when nobody can say which
        if len(group) > 1:
            for timing in group:
                _fill(predictor, [timing], leave_out)
            return
        reason = f"{group[0].part}: {error}"
        predictor.refuse(predictor.lacking(group), reason)
        leave_out(reason)


@contextmanager
def _progress(console: Console, doing: str, total: int) -> Iterator[Callable[[int], None]]:
    """A function that is told how many are done: a bar on a terminal, elsewhere a line now and then."""
    if not total:
        yield lambda done: None
        return
    started = last = time.monotonic()

    def line(done: int) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last >= LINE_S or done == total:
            last = now
            left = (now - started) / done * (total - done)
            say(console, f"{doing}: {done} of {total}" + (f", about {left:.0f} s left" if done < total else ""))

    columns = (TextColumn("{task.description}"), BarColumn(24), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task(doing, total=total)
        yield (lambda done: bar.update(task, completed=done)) if console.is_terminal else line
