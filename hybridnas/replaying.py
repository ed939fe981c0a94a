"""Samplers side by side on recorded trainings: the table and the curves of `hybridnas replay`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from rich.console import Console
from rich.table import Table
from scipy import stats

from hybridnas.config import SAMPLERS
from hybridnas.cost.budget import MARGIN
from hybridnas.errors import ConfigError
from hybridnas.report.curves import Curve, curves_figure
from hybridnas.report.progress import say, telling
from hybridnas.report.style import save
from hybridnas.tabular import Recorded, Replay, replay

#: After so many trainings the table says how far a search has come.
LOOKS = (10, 20, 40, 80)
LEVEL = 0.95


def compare_samplers(
    samplers: Sequence[str] | None = None,
    *,
    seeds: int = 10,
    trainings: int = 80,
    budget_ms: float | None = None,
    rungs: Sequence[int] | None = None,
    gate: bool = True,
    seeding: bool = True,
    data: str = "synthetic",
    runtime: str = "torch",
    folder: Path | None = None,
    out: Path | None = None,
    console: Console | None = None,
) -> pd.DataFrame:
    """Replay searches by each sampler, print the comparison, and draw the curves.

    Args:
        samplers: By name; None is all.
        seeds: Searches of each.
        trainings: Whole trainings that a search may spend.
        budget_ms: What a network may take; None does not bind.
        rungs: Epochs after which trials are compared; () trains all to the end, None is as a search does it.
        gate: Whether what is over the budget is left untrained.
        seeding: Whether the known layouts come first.
        data: What was trained on.
        runtime: What was timed.
        folder: The records; None are those of the package.
        out: The picture's file; None draws none.
        console: Where the table is printed; None prints nothing.

    Returns:
        A row a sampler: mean share (0..1) of the true front's hypervolume and half its 95 % interval after 10, 20, 40
        and 80 trainings and at the end, milliseconds a proposal, trials trained over the budget.

    Raises:
        ConfigError: a sampler, the data, the runtime or the picture's kind is unknown, or no network holds the budget.
        RunError: the records cannot be read.
    """
    console = console or Console(quiet=True)
    for name in samplers or ():
        if name not in SAMPLERS:
            raise ConfigError(f"--sampler {name} is unknown; {', '.join(SAMPLERS)} are known.")
    if out and out.suffix not in (".png", ".svg"):
        raise ConfigError(f"--out {out} must end in .png or .svg.")
    recorded = Recorded.load(folder, data=data, runtime=runtime)
    if len(recorded.networks) < recorded.space.size:
        raise ConfigError(
            f"--data {data} has {len(recorded.networks)} of {recorded.space.size} architectures on record: "
            "a search needs all."
        )
    fastest = float(recorded.networks.latency_ms.min())
    if budget_ms is not None and fastest * (1 + MARGIN) > budget_ms:
        raise ConfigError(
            f"--budget-ms {budget_ms:g}: no network on record is so fast; the fastest takes {fastest:.3g} ms, and "
            f"{MARGIN:.0%} are kept in hand."
        )
    true = recorded.true_front(budget_ms)
    say(
        console,
        f"{len(recorded.networks)} architectures trained on {data}, timed in {runtime}: {len(true)} on the true front, "
        f"{true.latency_ms.iloc[0]:.3g} to {true.latency_ms.iloc[-1]:.3g} ms, "
        f"{100 * true.accuracy.iloc[0]:.1f} to {100 * true.accuracy.iloc[-1]:.1f} %",
    )
    if rungs and (list(rungs) != sorted(set(rungs)) or rungs[0] < 1 or rungs[-1] > recorded.epochs):
        raise ConfigError(f"--rungs must rise from 1 up to the {recorded.epochs} epochs on record.")
    names = list(dict.fromkeys(samplers or SAMPLERS))  # one that is named twice tells nothing more
    found: dict[str, list[Replay]] = {name: [] for name in names}
    with telling(console) as tell:
        for seed in range(seeds):
            for name in names:
                found[name].append(
                    replay(
                        recorded,
                        name,
                        seed=seed,
                        trainings=trainings,
                        budget_ms=budget_ms,
                        rungs=rungs,
                        gate=gate,
                        seeding=seeding,
                    )
                )
                tell("searches", sum(map(len, found.values())), seeds * len(names))
    looks = [*(look for look in LOOKS if look < trainings), trainings]
    rows = pd.DataFrame([_row(name, replays, looks) for name, replays in found.items()])
    console.print(_table(rows, looks))
    if out:
        figure = curves_figure(
            [_curve(name, replays, trainings) for name, replays in found.items()],
            x="whole trainings spent",
            y="hypervolume, % of the true front's",
            all_of_it=100.0,
        )
        save(figure, out)
        say(console, f"Written: {out}")
    return rows


def _row(name: str, replays: Sequence[Replay], looks: Sequence[int]) -> dict[str, str | float]:
    row: dict[str, str | float] = {"sampler": name}
    for look in looks:
        row[f"share_{look}"], row[f"margin_{look}"] = mean_margin([each.share_at(look) for each in replays])
    row["ask_ms"] = float(np.mean([each.ask_ms for each in replays]))
    row["over_budget"] = float(np.mean([each.over_budget for each in replays]))
    return row


def mean_margin(values: Sequence[float]) -> tuple[float, float]:
    """The mean, and half its 95 % interval by Student's t; of one value the interval is not known (NaN)."""
    count = len(values)
    if count < 2:
        return float(np.mean(values)), float("nan")
    quantile = float(stats.t.ppf((1 + LEVEL) / 2, count - 1))
    return float(np.mean(values)), quantile * float(np.std(values, ddof=1)) / count**0.5


def _table(rows: pd.DataFrame, looks: Sequence[int]) -> Table:
    table = Table(title="Hypervolume, % of the true front's, after so many trainings", title_justify="left")
    table.add_column("sampler")
    for name in (*map(str, looks), "ms a proposal", "over budget"):
        table.add_column(name, justify="right")
    for _, row in rows.sort_values(f"share_{looks[-1]}", ascending=False).iterrows():
        shares = [_percent(row[f"share_{look}"], row[f"margin_{look}"]) for look in looks]
        table.add_row(str(row.sampler), *shares, f"{row.ask_ms:.0f}", f"{row.over_budget:.1f}")
    return table


def _percent(share: float, margin: float) -> str:
    """With its interval, where that is known."""
    return f"{100 * share:.1f}" + (f" +- {100 * margin:.1f}" if margin == margin else "")


def _curve(name: str, replays: Sequence[Replay], trainings: int) -> Curve:
    at = np.arange(1, trainings + 1)
    values = np.array([[mean_margin([each.share_at(x) for each in replays])] for x in at.tolist()])[:, 0]
    return Curve(name, at, 100 * values[:, 0], 100 * np.nan_to_num(values[:, 1]))
