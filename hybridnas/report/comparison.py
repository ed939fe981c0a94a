"""Networks side by side: what `profile` and `recommend` print."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

import pandas as pd
from rich.console import Console
from rich.table import Table
from rich.text import Text

from hybridnas import zoo
from hybridnas.recommending import Recommendation

PIPED_WIDTH = 160


def profile_table(rows: pd.DataFrame) -> Table:
    """What `profile_models` measured, one network a line."""
    first = rows.iloc[0]
    title = f"{first.target}, {first.runtime} {first.precision}, batch {first.batch_size}"
    table = Table(title=Text(title, "table.title"), title_justify="left")
    for name in ("name", "layout"):
        table.add_column(name, overflow="fold")
    for name in ("px", "params M", "MACs G", "p50 ms", "p95 ms", "images/s"):
        table.add_column(name, justify="right")
    for row in rows.to_dict("records"):
        table.add_row(
            Text(str(row["name"])),
            row["layout"] or "-",
            str(row["image_size"]),
            f"{row['params'] / 1e6:.2f}",
            f"{row['macs'] / 1e9:.3f}",
            *(_figure(row[key]) for key in ("latency_ms_p50", "latency_ms_p95", "throughput")),
        )
    return table


def recommendation_table(
    situation: str, latency_ms: Mapping[str, float], answer: Recommendation, budget_ms: float | None
) -> Table:
    """Published accuracy beside milliseconds measured here, fastest first; the answer is marked."""
    budget = f", budget {budget_ms:g} ms" if budget_ms else ""
    table = Table(title=f"{situation}{budget}", title_justify="left")
    table.add_column("design", overflow="fold")
    table.add_column("top-1 %", justify="right")
    table.add_column("trained on", overflow="fold")
    table.add_column("p50 ms here", justify="right")
    table.add_column("")
    for name in sorted(latency_ms, key=lambda name: latency_ms[name]):
        entry = zoo.entry(name)
        over = budget_ms is not None and latency_ms[name] > budget_ms
        mark = "<- start here" if name == answer.design else "over the budget" if over else ""
        style = "bold green" if name == answer.design else "dim" if over else ""
        table.add_row(name, f"{entry.top1:.1f}", entry.trained_on, f"{latency_ms[name]:.4g}", mark, style=style)
    return table


def show(*parts: Table | str) -> None:
    """Print to standard output; piped, in lines wide enough for any table."""
    console = Console(width=None if sys.stdout.isatty() else PIPED_WIDTH, highlight=False)
    for part in parts:
        console.print(part, markup=False) if isinstance(part, str) else console.print(part)


def _figure(value: Any) -> str:
    return "-" if value is None or pd.isna(value) else f"{value:.4g}"
