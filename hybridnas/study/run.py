"""A run folder: what a search leaves behind, read back. Nothing in it is executed."""

from __future__ import annotations

import json
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any

import pandas as pd
from pydantic import BaseModel, Field, ValidationError, model_validator

from hybridnas.architecture import Architecture
from hybridnas.config import SearchConfig
from hybridnas.errors import ConfigError, RunError, first_clause
from hybridnas.study.records import COLUMNS, front_of, typed, upgraded

Share = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
Margin = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class _Confirmed(BaseModel):
    number: int
    accuracy: Share
    margin: Margin = 0.0
    seeds: int = 1
    epochs: int = 0
    design: str = ""
    accuracy_in_search: Share | None = None
    latency_ms_p50: Margin | None = None
    test_accuracy: Share | None = None

    @model_validator(mode="after")
    def _known_designs_are_tested(self) -> _Confirmed:
        if self.design and self.test_accuracy is None:
            raise ValueError(f"{self.design} lacks a test_accuracy")
        return self


class _Baseline(BaseModel):
    name: str
    kind: str = ""
    macs: Margin | None = None
    latency_ms: Margin | None = None
    accuracy: Share | None = None
    accuracies: list[Share] = []


class _Target(BaseModel):
    target: str
    runtime: str
    precision: str
    budget_ms: Margin | None
    predicted_ms: Margin | None
    latency_ms_p50: Margin
    latency_ms_low: Margin
    latency_ms_high: Margin
    latency_ms_p95: Margin
    latency_ms_raw_p50: Margin


class _Result(BaseModel):
    """What result.json must have, so that nobody who reads it needs to look; more may stand in it."""

    winner: int
    num_classes: Annotated[int, Field(ge=1)]
    accuracy: Share
    test_accuracy: Share
    epochs: int
    margin: Margin = 0.0
    seeds: int = 1
    seconds: dict[str, float] = {}
    targets: list[_Target] = []
    confirmed: list[_Confirmed] = []
    baselines: list[_Baseline] | None = None


class Run:
    """A search that ended or was stopped. Make one with `Run.load(folder)`.

    Attributes:
        folder: Where it lies.
        config: Its settings, as resolved when it began.
        trials: All trials, one a row (`hybridnas.study.records.COLUMNS`).
        result: The winner and its confirmed figures; empty while there is none.
    """

    def __init__(self, folder: Path, config: SearchConfig, trials: pd.DataFrame, result: dict[str, Any]) -> None:
        self.folder = folder
        self.config = config
        self.trials = trials
        self.result = result

    @classmethod
    def load(cls, folder: str | Path) -> Run:
        """Read a run folder.

        Raises:
            RunError: it is no run folder, or a file in it is damaged.
        """
        folder = Path(folder)
        config = read_settings(folder)
        try:
            trials_file, result_file = folder / "trials.csv", folder / "result.json"
            trials = typed(
                upgraded(pd.read_csv(trials_file)) if trials_file.is_file() else pd.DataFrame(columns=COLUMNS)
            )
            result = json.loads(result_file.read_bytes()) if result_file.is_file() else {}
            if result and _Result.model_validate(result).winner not in trials.number.tolist():
                raise ValueError("result.json names no trial of trials.csv")
            if result:  # the first version had no targets
                result = {"targets": [], "confirmed": [], **result}
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise _damaged(folder, error) from None
        return cls(folder, config, trials, result)

    def front(self, target: str | None = None) -> pd.DataFrame:
        """The trials on the Pareto front of accuracy and latency, fastest first.

        Args:
            target: One of the run's; None is the only one, or with several the robust front: of accuracy and the worst
                latency over its budget.

        Raises:
            RunError: the run has no such target.
        """
        return front_of(self.trials, "worst_latency" if target is None else self.latency_column(target))

    def latency_column(self, target: str) -> str:
        """The column of `trials` with the median milliseconds on a target: measured, or from a frozen table.

        Raises:
            RunError: the run has no such target.
        """
        first, *others = self.config.targets
        if target not in (first, *others):
            raise RunError(f"{self.folder} has no target {target!r}, but {', '.join((first, *others))}.")
        name = "predicted_ms" if self.config.frozen_table else "latency_ms_p50"
        return name if target == first else f"{name} {target}"

    @cached_property
    def best(self) -> pd.Series[Any]:
        """The winner's row of `trials`.

        Raises:
            RunError: the search has no winner yet.
        """
        if "winner" not in self.result:
            raise RunError(f"{self.folder} has no winner yet: the search did not end; go on with --resume.")
        row: pd.Series[Any] = self.trials.set_index("number", drop=False).loc[self.result["winner"]]
        return row

    def architecture(self, number: int) -> Architecture:
        """The architecture of a trial.

        Raises:
            RunError: no trial has that number.
        """
        rows = self.trials[self.trials.number == number]
        if rows.empty:
            last = int(self.trials.number.max()) if len(self.trials) else -1
            raise RunError(f"{self.folder} has no trial {number}; its trials are numbered 0 to {last}.")
        return Architecture.from_json(str(rows.architecture.iloc[0]))

    def best_model(self) -> Any:
        """The winner's network (`HybridNet`) with its trained weights, in eval mode."""
        best = self.folder / "best"
        if not (best / "weights.safetensors").is_file():
            raise RunError(f"{best} holds no weights: the search did not end; go on with --resume.")
        return load_network(best, self.result["num_classes"])


def read_settings(folder: Path) -> SearchConfig:
    """The settings of a run.

    Raises:
        RunError: the folder is none, or its config.json is damaged.
    """
    path = folder / "config.json"
    if not path.is_file():
        raise RunError(f"{folder} is no run folder: it has no config.json.")
    try:
        return SearchConfig.model_validate_json(path.read_bytes())
    except (OSError, ValidationError) as error:
        unknown = [str(each["loc"][0]) for each in _errors(error) if each["type"] == "extra_forbidden"]
        if unknown:
            raise RunError(
                f"{folder} was made by another version of hybridnas: this one does not know the settings "
                f"{', '.join(unknown)} in its config.json."
            ) from None
        raise _damaged(folder, error) from None


def _errors(error: Exception) -> list[Any]:
    return list(error.errors()) if isinstance(error, ValidationError) else []


def _damaged(folder: Path, error: Exception) -> RunError:
    reason = first_clause(error)
    if first := next(iter(_errors(error)), None):
        file = "config.json" if isinstance(error, ValidationError) and error.title == "SearchConfig" else "result.json"
        where = ".".join(str(part) for part in first["loc"])
        reason = f"{file}: {where + ': ' if where else ''}{first['msg']}"
    return RunError(f"The run folder {folder} is damaged: {reason}.")


def free_folder(out: Path | None, parent: Path) -> Path:
    """The folder that was asked for, or one named by the time: it is not there, or empty.

    Raises:
        ConfigError: something is in it.
    """
    folder = out or parent / f"{datetime.now():%Y%m%d-%H%M%S}"
    while out is None and folder.exists():  # begun in the same second, or before the clock was set back
        folder = folder.with_name(folder.name + "a")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConfigError(f"--out {folder} exists already; choose another name, or go on with it by --resume.")
    return folder


def newest_folder(parent: Path, what: str) -> Path:
    """The one that was begun last.

    Raises:
        RunError: there is none.
    """
    found = sorted(parent.glob("*/config.json"), key=lambda path: path.stat().st_mtime)
    if not found:
        raise RunError(f"--resume: there is no {what} under {parent}/; name one with --out.")
    return found[-1].parent


def load_network(folder: Path, num_classes: int) -> Any:
    """The network (`HybridNet`) whose description and weights lie in a folder, in eval mode.

    Raises:
        RunError: they are damaged, or do not fit.
        ArchitectureError: the description is none.
    """
    try:
        architecture = Architecture.from_json((folder / "architecture.json").read_text("utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise _damaged(folder, error) from None
    return with_weights(architecture, folder / "weights.safetensors", num_classes)


def with_weights(architecture: Architecture, file: Path, num_classes: int) -> Any:
    """A network (`HybridNet`) with the weights in a file, in eval mode.

    Raises:
        RunError: they are damaged, or do not fit.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    from hybridnas.model import build

    model = build(architecture, num_classes)
    try:
        model.load_state_dict(load_file(file))
    except (OSError, SafetensorError, RuntimeError) as error:
        raise _damaged(file.parent, error) from None
    return model.eval()
