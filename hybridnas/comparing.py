"""Whether a search paid off: its winner beside known designs and timm's models, in result.json."""

from __future__ import annotations

import json
import math
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

from hybridnas.errors import RunError
from hybridnas.files import write_atomic
from hybridnas.study.baselines import (
    FINDING_SHARE,
    LEAST_S,
    MOST_FINDING_S,
    NUM_TRAINED,
    Baseline,
    find_designs,
    find_models,
    train_baselines,
)
from hybridnas.study.confirm import margin_of_difference
from hybridnas.study.loop import Search
from hybridnas.study.run import Run
from hybridnas.zoo.of_timm import given_weights

RESULT = "result.json"


def compare_run(
    folder: Path,
    search: Search,
    kind: Literal["zoo", "timm"],
    seconds_left: Callable[[], float],
    say: Callable[[str], None],
    weights: Path | None = None,
) -> None:
    """Train baselines of a kind like the winner, and add them to result.json, each as a training ends.

    `baselines` there gets them, the best known design that the search itself confirmed, and by how much the winner is
    more accurate; `baseline_remarks` gets what was left out, by kind, once all is done: such a run is left alone.

    Args:
        folder: The run folder, with a winner.
        search: The search that ended.
        kind: What the winner is compared with.
        seconds_left: Until all must end. Without a limit the zoo gets as long as the search trained.
        say: Told what each training gave.
        weights: A folder of weights for timm's models; one that was trained from scratch before stays so.
    """
    run = Run.load(folder)
    result = dict(run.result)
    remarks: dict[str, list[str]] = result.setdefault("baseline_remarks", {})
    late = [row["name"] for row in result["baselines"] if weights and _got_weights(row, weights)]
    if late:
        say(f"{', '.join(late)}: trained from scratch before, and weights in {weights} are not used")
    if kind in remarks:
        return
    found = [Baseline.from_row(row, weights) for row in result["baselines"] if row["kind"] != "seeded"]
    earlier = result.setdefault("seconds", {}).get("baselines", 0.0)
    winner = next(row for row in result["confirmed"] if row["number"] == result["winner"])

    def keep() -> None:
        rows = [*_seeded(run, result["confirmed"]), *(each.row() for each in found if each.accuracies)]
        _compare(rows, winner["accuracies"], result["confirmed"], search.trainer.dataset.num_weighed)
        result["baselines"] = rows
        result["seconds"]["baselines"] = round(earlier + search.spent["baselines"], 1)
        write_atomic(folder / RESULT, json.dumps(result, indent=2))

    limit = math.inf
    if kind == "zoo" and seconds_left() == math.inf:
        limit = time.monotonic() + _modest(search)

    def left() -> float:
        return min(seconds_left(), limit - time.monotonic())

    if not winner["accuracies"]:
        remarks[kind] = [
            "The winner was not trained longer for lack of time, or by an older version, so nothing was trained to "
            "compare it with."
        ]
    elif left() < LEAST_S:
        why = "The search trained too short" if seconds_left() == math.inf else "No time was left"
        remarks[kind] = [f"{why} to train designs of {_whose(kind)} beside the winner."]
    else:
        with search.clock("baselines"):
            said = _train(search, int(run.best.image_size), kind, found, left, say, keep, weights)
        remarks[kind] = said
    keep()


def _got_weights(row: dict[str, Any], folder: Path) -> bool:
    """Whether a baseline was trained from scratch that there are weights for now."""
    return row["kind"] == "timm" and not row["pretrained"] and given_weights(row["name"], folder) is not None


def _modest(search: Search) -> float:
    """Seconds for what nobody set a limit to: those that the search itself trained."""
    return sum(record.seconds for record in search.records)


def trained_before(folder: Path) -> list[dict[str, Any]]:
    """The baselines that an earlier end of the run trained: another winner is compared with them, too."""
    try:
        rows = Run.load(folder).result.get("baselines", [])
    except RunError:  # a damaged result.json, which is being written anew
        return []
    beside_the_winner = ("gain", "gain_margin")
    return [
        {name: value for name, value in row.items() if name not in beside_the_winner}
        for row in rows
        if row["kind"] != "seeded"
    ]


def _train(
    search: Search,
    image_size: int,
    kind: Literal["zoo", "timm"],
    found: list[Baseline],
    left: Callable[[], float],
    say: Callable[[str], None],
    keep: Callable[[], None],
    weights: Path | None,
) -> list[str]:
    """Find what is lacking and train; `found` gets them."""
    own = [each for each in found if each.kind == kind and each.design.image_size == image_size]
    remarks: list[str] = []
    if len(own) < NUM_TRAINED:
        allowed = min(FINDING_SHARE * left(), MOST_FINDING_S)
        until = time.monotonic() + allowed
        say(f"looking for designs of {_whose(kind)} that hold the budget")
        find = find_designs if kind == "zoo" else find_models
        more, remarks = find(search, image_size, lambda: until - time.monotonic())
        names = {each.name for each in own}
        more = [each for each in more if each.name not in names]
        own += more
        found += more
    return remarks + train_baselines(search, own, left, say, keep, weights)


def _whose(kind: str) -> str:
    return "the zoo" if kind == "zoo" else "timm"


def _seeded(run: Run, confirmed: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The best known design that was confirmed beside the winner."""
    known = [row for row in confirmed if row["design"] and row["accuracies"] and row["number"] != run.result["winner"]]
    if not known:
        return []
    best = max(known, key=lambda row: row["accuracy"])
    trial = run.trials.set_index("number").loc[best["number"]]
    return [
        {
            "name": best["design"],
            "kind": "seeded",
            "layout": str(trial.layout),
            "image_size": int(trial.image_size),
            "macs": int(trial.macs),
            "params": int(trial.params),
            "latency_ms": best["latency_ms_p50"],
            "targets_ms": best["targets_ms"],
            "worst_latency": best.get("worst_latency"),
            "accuracies": best["accuracies"],
            "accuracy": best["accuracy"],
            "test_accuracy": best["test_accuracy"],
            "pretrained": False,
        }
    ]


def _compare(
    rows: Sequence[dict[str, Any]],
    winner: Sequence[float],
    confirmed: Sequence[dict[str, Any]],
    num_images: float,
) -> None:
    """Say in each row by how much the winner is more accurate, `gain`, and half the 95 % interval of that."""
    if not winner:
        return
    others = [row["accuracies"] for row in rows if row["kind"] != "seeded"]
    every = [*(row["accuracies"] for row in confirmed), *others]
    for row in rows:
        row["gain"] = statistics.mean(winner) - row["accuracy"]
        row["gain_margin"] = margin_of_difference(winner, row["accuracies"], every, num_images)
