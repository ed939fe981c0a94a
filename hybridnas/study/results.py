"""result.json: the winner and its confirmed figures. What others read of it is checked here; more may stand in it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, PositiveInt
from pydantic_core import from_json

from hybridnas.config import SearchConfig

Share = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
Figure = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class _Part(BaseModel):
    model_config = ConfigDict(extra="allow", strict=True)


class OnTarget(_Part):
    """The budget on one target, what was foreseen and what the exported file takes."""

    target: str
    runtime: str
    precision: str
    budget_ms: Figure | None
    predicted_ms: Figure | None
    latency_ms_p50: Figure
    latency_ms_low: Figure | None
    latency_ms_high: Figure | None
    latency_ms_p95: Figure
    latency_ms_raw_p50: Figure


class OfDesign(_Part):
    """A design that was confirmed; the first versions did not say which one, nor how long it took."""

    number: int
    accuracy: Share
    design: str = ""
    epochs: int = 0
    margin: Figure = 0.0
    seeds: int = 1
    latency_ms_p50: Figure | None = None
    targets_ms: list[Figure] = []
    accuracy_in_search: Share | None = None
    test_accuracy: Share | None = None


class OfBaseline(_Part):
    """What the winner was compared with."""

    name: str
    kind: str
    accuracy: Share
    accuracies: list[Share] = []
    macs: Figure | None = None
    latency_ms: Figure | None = None
    targets_ms: list[Figure] = []
    worst_latency: Figure | None = None


class Result(_Part):
    """The whole file."""

    winner: int
    num_classes: PositiveInt
    targets: list[OnTarget]
    accuracy: Share
    epochs: int
    test_accuracy: Share
    confirmed: list[OfDesign]
    baselines: list[OfBaseline] = []
    margin: Figure = 0.0
    seeds: int = 1
    balanced: bool = False
    seconds: dict[str, float] = {}
    files: dict[str, str] = {}


def read_result(path: Path, config: SearchConfig) -> dict[str, Any]:
    """What stands in result.json, in today's form: older versions kept less of a design, and compared with nothing.

    Raises:
        ValueError: it is not whole.
    """
    found = from_json(path.read_bytes())
    if isinstance(found, dict) and "targets" not in found and "latency_ms_p50" in found:
        found["targets"] = [_first_form(found, config)]
    Result.model_validate(found)
    confirmed = [
        {"design": "", "accuracies": [], "targets_ms": _alone(row.get("latency_ms_p50")), **row}
        for row in found["confirmed"]
    ]
    baselines = [{"targets_ms": _alone(row.get("latency_ms")), **row} for row in found.get("baselines", [])]
    return {**found, "baselines": baselines, "confirmed": confirmed}


def _alone(ms: float | None) -> list[float]:
    """On each target, where the first target's milliseconds alone were kept."""
    return [] if ms is None else [ms]


def _first_form(found: dict[str, Any], config: SearchConfig) -> dict[str, Any]:
    """Of the versions that timed torch on one target, and wrote its figures beside the others."""
    latencies = {name: found.pop(name) for name in list(found) if name.startswith("latency_ms_")}
    return {
        "target": config.targets[0] if config.targets else "",
        "runtime": config.runtime,
        "precision": config.precision,
        "budget_ms": config.budget_on(0),
        "predicted_ms": None,
        "latency_ms_low": None,
        "latency_ms_high": None,
        **latencies,
    }
