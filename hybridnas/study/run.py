"""A run folder: what a search leaves behind, read back. Nothing in it is executed."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime
from functools import cached_property
from html import escape
from pathlib import Path
from typing import Any, TypeVar

import pandas as pd
from pydantic import ValidationError
from pydantic_core import from_json

from hybridnas.architecture import Architecture
from hybridnas.config import SearchConfig
from hybridnas.errors import ConfigError, RunError, first_clause, first_invalid
from hybridnas.files import write_atomic
from hybridnas.study.records import front_of, read_table
from hybridnas.study.results import read_result

#: Of run folders, as config.json says it: one more when an older version would misread what is written now. Folders
#: that say none are from before there were numbers.
FORMAT = 1

Content = TypeVar("Content")


class Run:
    """A search that ended or was stopped. Make one with `Run.load(folder)`. A notebook shows its front.

    Attributes:
        folder: Where it lies.
        config: Its settings, as resolved when it began.
        trials: All trials, one a row (`hybridnas.study.records.COLUMNS`).
        result: The winner and its confirmed figures (`hybridnas.study.results.Result`); empty while there is none.

    >>> run = Run.load("runs/example")  # what a search wrote
    >>> trained = run.trials[run.trials.status == "complete"]  # a pandas DataFrame
    >>> bool((trained.latency_ms_p50 <= 1000).all()), run.config.budget_ms
    (True, 1000.0)
    >>> run.front().latency_ms_p50.is_monotonic_increasing
    True
    >>> winner = run.architecture(int(run.best.number))
    >>> winner.key == run.best.key
    True
    >>> run.best_model().architecture == winner
    True
    """

    def __init__(self, folder: Path, config: SearchConfig, trials: pd.DataFrame, result: dict[str, Any]) -> None:
        self.folder = folder
        self.config = config
        self.trials = trials
        self.result = result

    @classmethod
    def load(cls, folder: str | Path) -> Run:
        """Read a run folder, also one of an older version: columns that it did not write are missing values.

        Raises:
            RunError: it is no run folder, or of a newer version, or a file in it is damaged.
        """
        folder = Path(folder)
        config = read_settings(folder)
        trials = _read(folder / "trials.csv", read_table)
        result_file = folder / "result.json"
        result = _read(result_file, lambda path: read_result(path, config)) if result_file.is_file() else {}
        if result and result["winner"] not in trials.number.tolist():
            raise _damaged(folder / "trials.csv", f"it lacks trial {result['winner']}, the winner of result.json")
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

    def trained_longer(self) -> list[dict[str, Any]]:
        """Those of the confirmed that there was time to train longer."""
        return [row for row in self.result.get("confirmed", ()) if row.get("epochs", 0) > (self.config.epochs or 0)]

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
            has = f"its trials are numbered 0 to {self.trials.number.max()}" if len(self.trials) else "it has none yet"
            raise RunError(f"{self.folder} has no trial {number}; {has}.")
        return Architecture.from_json(str(rows.architecture.iloc[0]))

    def best_model(self) -> Any:
        """The winner's network (`HybridNet`) with its trained weights, in eval mode.

        Raises:
            RunError: the search has no winner yet, or its files are gone or damaged.
        """
        assert self.best.key
        best = self.folder / "best"
        if not (best / "weights.safetensors").is_file():
            raise RunError(f"{best} has no weights.safetensors any more.")
        return load_network(best, self.result["num_classes"])

    def _repr_html_(self) -> str:
        """What a notebook shows: the winner's drawing and the front."""
        counts = ", ".join(f"{count} {status}" for status, count in self.trials.status.value_counts().items())
        about = f"<p><b>{escape(str(self.folder))}</b>: {len(self.trials)} trials{f' ({counts})' if counts else ''}</p>"
        if self.result:
            best, figures = self.best, self.result["targets"][0]
            about += (
                f"<p>Winner: trial {best.number}, {100 * self.result['accuracy']:.1f} % on validation images, "
                f"{figures['latency_ms_p50']:.3g} ms on {escape(figures['target'])}</p>"
                f"{self.architecture(int(best.number))._repr_html_()}"
            )
        latencies = [self.latency_column(target) for target in self.config.targets]
        columns = ["number", "layout", "families", "image_size", "accuracy", *latencies, "macs", "params"]
        return about + self.front()[columns].to_html(index=False, border=0, float_format="{:.3g}".format)


def read_settings(folder: Path) -> SearchConfig:
    """The settings of a run.

    Raises:
        RunError: the folder is none, or of a newer version, or its config.json is damaged.
    """
    path = folder / "config.json"
    if not path.is_file():
        problem = "it has no config.json" if folder.is_dir() else "there is no such folder"
        raise RunError(f"{folder} is no run folder: {problem}.")
    fields = _read(path, _read_fields)
    number = fields.pop("format", 0)
    if not (isinstance(number, int) and number <= FORMAT):
        raise RunError(
            f"{folder} was written by a newer hybridnas: its format is {number!r}, and this one reads those up to "
            f"{FORMAT}; update hybridnas."
        )
    if "architecture" in fields:
        raise RunError(f"{folder} is the folder of a training, not of a search.")
    unknown = [" ".join(name.split()) for name in fields if name not in SearchConfig.model_fields]
    if unknown:
        raise RunError(
            f"{folder} was made by another version of hybridnas: this one does not know the settings "
            f"{', '.join(unknown)} in its config.json."
        )
    return _read(path, lambda path: SearchConfig.model_validate(fields))


def _read_fields(path: Path) -> dict[str, Any]:
    fields = from_json(path.read_bytes())
    if not isinstance(fields, dict):
        raise ValueError("it holds no settings")
    return fields


def write_settings(folder: Path, config: SearchConfig) -> None:
    """Make a folder a run folder, of today's format."""
    fields = {"format": FORMAT, **config.model_dump(mode="json")}
    write_atomic(folder / "config.json", json.dumps(fields, indent=2))


def check_goes_on(folder: Path, config: SearchConfig) -> None:
    """Refuse to train more for a run whose trials were trained otherwise than today.

    Raises:
        RunError: an older version made it.
    """
    if config.rungs is None:
        raise RunError(
            f"{folder} was made by an older version, which had no rungs and trained otherwise: its figures cannot be "
            "compared with new ones. `report` still shows it and `train` takes its winner, and `export` that training; "
            "begin a new run."
        )


def _read(path: Path, read: Callable[[Path], Content]) -> Content:
    try:
        return read(path)
    except ValidationError as error:
        raise _damaged(path, first_invalid(error)) from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
        raise _damaged(path, first_clause(error)) from None


def _damaged(path: Path, problem: str) -> RunError:
    anew = "; `search --resume` writes it anew" if path.name in ("trials.csv", "result.json") else ""
    return RunError(f"The run folder {path.parent} is damaged: {path.name}: {problem}{anew}.")


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


def new_folder(parent: Path) -> Path:
    """Make a folder named by the time, this process's alone: what begins in the same second gets another."""
    parent.mkdir(parents=True, exist_ok=True)
    while True:
        folder = free_folder(None, parent)
        with suppress(FileExistsError):
            folder.mkdir()
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


def trial_weights(folder: Path, number: int) -> Path:
    """Where a run folder has the weights of a trial that is among the best."""
    return folder / "checkpoints" / f"trial-{number}.safetensors"


def best_weights(folder: Path) -> Path:
    """Where a run folder has the weights of its winner, which were trained longer."""
    return folder / "best" / "weights.safetensors"


def kept_weights(run: Run, number: int) -> Path | None:
    """Where the weights of a trial lie: the winner's in best/, others' as searched; None where they are not kept."""
    best = best_weights(run.folder)
    if run.result.get("winner") == number and best.is_file():
        return best
    kept = trial_weights(run.folder, number)
    return kept if kept.is_file() else None


def load_network(folder: Path, num_classes: int) -> Any:
    """The network (`HybridNet`) whose description and weights lie in a folder, in eval mode.

    Raises:
        RunError: they are damaged, or do not fit.
        ArchitectureError: the description is none.
    """
    try:
        architecture = Architecture.from_json((folder / "architecture.json").read_text("utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise _unread(folder, error) from None
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
        raise _unread(file.parent, error) from None
    return model.eval()


def _unread(folder: Path, error: Exception) -> RunError:
    return RunError(f"The network in {folder} cannot be read: {first_clause(error)}.")
