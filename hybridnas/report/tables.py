"""What a run prints at its end."""

from __future__ import annotations

from itertools import combinations
from typing import Any

import pandas as pd
from rich.table import Table
from rich.text import Text

from hybridnas.study.run import Run

NUM_ROWS = 12


def front_table(run: Run) -> Table:
    """The front, fastest first, and the known designs and what was confirmed that are not on it; the winner is marked.

    What was confirmed also has the accuracy of its longer trainings.

    With several targets it is the robust front, with the milliseconds on each.
    """
    targets = run.config.targets
    several = len(targets) > 1
    if several:
        latencies = {target: run.latency_column(target) for target in targets}
    elif run.config.frozen_table:
        latencies = {"predicted ms": "predicted_ms"}
    else:
        latencies = {"p50 ms": "latency_ms_p50", "p95 ms": "latency_ms_p95"}
    front = run.front()
    winner = run.result.get("winner")
    confirmed = run.trained_longer()
    longer = {row["number"]: f"{100 * row['accuracy']:.1f} %" for row in confirmed}
    known = (run.trials.status == "complete") & (run.trials.design != "")
    shown = run.trials[known | run.trials.number.isin([*longer, winner])]
    others = shown[~shown.number.isin(front.number)]
    on_front = front[front.number.isin([*front.tail(NUM_ROWS).number, *shown.number])]
    bound = "budget" if run.config.budget_ms else "reference network's"
    which = (
        f"Robust front (accuracy against the worst latency over its {bound})"
        if several
        else "Pareto front (short-training accuracy against latency)"
    )
    table = Table(title=f"{which}", title_justify="left")
    table.add_column("trial", justify="right")
    table.add_column("layout")
    table.add_column("families", overflow="fold")
    table.add_column("px", justify="right")
    table.add_column("accuracy", justify="right")
    if longer:
        table.add_column(f"{confirmed[0]['epochs']} epochs", justify="right")
    for name in latencies:
        table.add_column(Text(name), justify="right", overflow="fold")
    table.add_column("MMAC", justify="right")
    table.add_column("params", justify="right")
    for part, style in ((on_front, ""), (others, "dim")):
        for _, row in part.sort_values("worst_latency").iterrows():
            table.add_row(
                *_cells(row, list(latencies.values()), [longer.get(row.number, "")] if longer else []),
                style="bold green" if row.number == winner else style,
            )
        table.add_section()
    captions = []
    if len(on_front) < len(front):
        captions.append(f"above the line: {len(on_front)} of the {len(front)} on the front, all of the most accurate")
    if len(others):
        captions.append("below the line: known designs, and what was trained longer, that are not on the front")
    table.caption = "\n".join(captions) or None
    return table


def _cells(row: pd.Series[Any], latencies: list[str], longer: list[str]) -> list[str | Text]:
    return [
        str(row.number),
        row.layout,
        Text(row.families + (f" ({row.design})" if row.design else "")),
        str(row.image_size),
        f"{100 * row.accuracy:.1f} %",
        *longer,
        *(f"{row[name]:.2f}" for name in latencies),
        f"{row.macs / 1e6:.2f}",
        f"{row.params / 1e3:.0f} k",
    ]


def summary(run: Run) -> str:
    """The run in a few plain sentences."""
    counts = run.trials.status.value_counts()
    words = {"complete": "trained to the end", "pruned": "stopped at a rung"}
    parts = [
        f"{counts[name]} {words.get(name, name)}"
        for name in ("complete", "pruned", "infeasible", "failed")
        if counts.get(name, 0)
    ]
    lines = [f"{len(run.trials)} architectures tried: {', '.join(parts)}."]
    if "winner" in run.result:
        result = run.result
        lines.append(
            f"Winner: trial {result['winner']}, {run.best.layout} ({run.best.families}) at {run.best.image_size} px."
        )
        lines += [_contract(target) for target in result["targets"]]
        balanced = result.get("balanced", False)
        lines.append(f"  {_accuracy(result, balanced=balanced)}")
        lines += _quicker(result)
        known = [row for row in result["confirmed"] if row.get("design") and row["number"] != result["winner"]]
        lines += [
            f"Known design {row['design']} (trial {row['number']}), {row['latency_ms_p50']:.2f} ms:\n  "
            f"{_accuracy(row, balanced=balanced)}"
            for row in known
        ]
        lines += _paid_off(run)
        if "seconds" in result:
            spent = sorted(result["seconds"].items(), key=lambda item: -item[1])
            lines.append("Seconds: " + ", ".join(f"{seconds:.0f} {doing}" for doing, seconds in spent) + ".")
        lines += _order_kept(run.trained_longer())
    return "\n".join(lines)


def _paid_off(run: Run) -> list[str]:
    """The winner beside known designs and timm's models: what was trained at the end, and a sentence."""
    result = run.result
    rows = [row for row in result.get("baselines") or () if "gain" in row]
    lines = [
        f"{_called(row)}, {row['latency_ms']:.2f} ms, {_how(row)}:\n  accuracy {100 * row['accuracy']:.1f} % on "
        f"validation ({_count(len(row['accuracies']), 'seed')}), {100 * row['test_accuracy']:.1f} % on the test images"
        for row in rows
        if row["kind"] != "seeded"
    ]
    lines += [remark for remarks in result.get("baseline_remarks", {}).values() for remark in remarks]
    if rows:
        winner_ms = result["targets"][0]["latency_ms_p50"]
        own = f", itself the known design {run.best.design}," if run.best.design else ""
        clauses = [_beside(row, winner_ms) for row in rows]
        lines.append(f"Did it pay off? At {winner_ms:.2f} ms the winner{own} is {'; '.join(clauses)}.")
        lines.append("  (by the validation images, on which the winner was chosen: that favours it a little)")
    elif run.best.design and "baseline_remarks" in result:
        lines.append(f"Did it pay off? The winner is itself the known design {run.best.design}.")
    elif "baseline_remarks" in result:
        lines.append("Did it pay off? That is not known: there was no time to train anything else as the winner was.")
    return lines


def _beside(row: dict[str, Any], winner_ms: float) -> str:
    """What the winner is, beside one baseline. An interval that holds zero tells nothing about which is better."""
    gain, margin, ms = 100 * row["gain"], 100 * row["gain_margin"], row["latency_ms"]
    which = f"{_called(row)} ({ms:.2f} ms" + (")" if row["kind"] == "seeded" else f", {_how(row)})")
    if abs(gain) > margin:
        sign = 1 if gain > 0 else -1
        interval = f"95 % interval {sign * gain - margin:.1f} to {sign * gain + margin:.1f}"
        points = f"{abs(gain):.1f} points ({interval})"
        return f"{points} more accurate than {which}" if gain > 0 else f"{points} less accurate than {which}: use that"
    interval = f"{gain:+.1f} points, 95 % interval {gain - margin:+.1f} to {gain + margin:+.1f}"
    verdict = "" if winner_ms < ms else ": use that"
    return f"no better for sure than {which}, {interval}{verdict or ', but faster'}"


def _called(row: dict[str, Any]) -> str:
    name = row["name"]
    return {"seeded": f"the best known design in the space, {name}", "zoo": f"the zoo's {name}"}.get(
        row["kind"], f"timm's {name}"
    )


def _how(row: dict[str, Any]) -> str:
    return "fine-tuned from pretrained weights" if row["pretrained"] else "trained from scratch by the same recipe"


def _count(number: int, what: str) -> str:
    return f"one {what}" if number == 1 else f"mean of {number} {what}s"


def _accuracy(row: dict[str, Any], *, balanced: bool) -> str:
    """Of a design that was confirmed, with its 95 % interval."""
    kind = "balanced accuracy" if balanced else "accuracy"
    margin, seeds = "", ""
    if "margin" in row:  # older runs have none
        margin = f" +- {100 * row['margin']:.1f}"
        seeds = f"mean of {row['seeds']} seeds, " if row["seeds"] > 1 else "one seed, "
    return (
        f"{kind} {100 * row['accuracy']:.1f}{margin} % on validation ({seeds}{row['epochs']} epochs), "
        f"{100 * row['test_accuracy']:.1f} % on the test images"
    )


def _quicker(result: dict[str, Any]) -> list[str]:
    """The quickest of those that were trained as the winner was and lie within its interval, where one is quicker."""
    own = next((row for row in result["confirmed"] if row["number"] == result["winner"]), None)
    if not own or not own.get("margin"):
        return []
    near = [
        row
        for row in result["confirmed"]
        if row.get("epochs") == own.get("epochs")
        and row["accuracy"] >= own["accuracy"] - own["margin"]
        and row["targets_ms"]
        and all(ms < most for ms, most in zip(row["targets_ms"], own["targets_ms"], strict=True))
    ]
    if not near:
        return []
    row = min(near, key=lambda row: row["targets_ms"][0])
    share = row["targets_ms"][0] / own["targets_ms"][0]
    return [
        f"  within that interval and quicker: trial {row['number']}, {100 * row['accuracy']:.1f} % at "
        f"{row['targets_ms'][0]:.2f} ms, {share:.2f} times the winner's"
    ]


def _order_kept(longer: list[dict[str, Any]]) -> list[str]:
    """Whether those that were trained longer kept the order that they had in the search: a first hint, of few pairs."""
    longer = [row for row in longer if row["accuracy_in_search"] is not None]
    pairs = [
        (one["accuracy"] - other["accuracy"]) * (one["accuracy_in_search"] - other["accuracy_in_search"])
        for one, other in combinations(longer, 2)
    ]
    if not pairs:
        return []
    kept = sum(product > 0 for product in pairs)
    return [
        f"Trained longer, {kept} of {len(pairs)} pairs of the confirmed kept their order; "
        "`python -m hybridnas.trust RUN` says how far the order of all may be believed."
    ]


def _contract(target: dict[str, Any]) -> str:
    """What was asked of one target, what was foreseen, and what the exported file does."""
    budget = f"budget {target['budget_ms']:g} ms, " if target["budget_ms"] else ""
    interval = ""
    if target["latency_ms_low"] is not None:  # the first versions had none
        interval = f" ({target['latency_ms_low']:.2f} to {target['latency_ms_high']:.2f})"
    foreseen = f"predicted {target['predicted_ms']:.2f}, " if target["predicted_ms"] else ""
    return (
        f"  {target['target']}, {target['runtime']} {target['precision']}: {budget}{foreseen}the exported file "
        f"p50 {target['latency_ms_p50']:.2f} ms{interval}, "
        f"p95 {target['latency_ms_p95']:.2f}; plain median just now {target['latency_ms_raw_p50']:.2f}"
    )
