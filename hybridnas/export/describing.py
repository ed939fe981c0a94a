"""What a run, or a training, can say of a network on its card."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd

from hybridnas.config import SearchConfig, TrainConfig
from hybridnas.cost.macs import count_macs
from hybridnas.errors import RunError, first_clause
from hybridnas.export.card import Card
from hybridnas.model import HybridNet, num_params
from hybridnas.study.run import Run, best_weights

SHORT = (
    "Short trainings rank architectures; they do not make good classifiers. Train it to the end before you rely on it."
)
UNCONFIRMED = "Its weights are those of the search's short training, not confirmed by longer ones."
ONE_DATA = "Its accuracy is that on images like those of its data; on others nothing was measured."
ONE_MACHINE = "Milliseconds are those of the machine that was timed; on another, measure again: hybridnas profile."


def trial_card(run: Run, number: int, weights: Path) -> Card:
    """Of a trial's weights: the figures of those in best/ were confirmed, others' are those of the search.

    Raises:
        RunError: environment.json is damaged.
    """
    row: pd.Series[Any] = run.trials[run.trials.number == number].iloc[0]
    environment = _read(run.folder / "environment.json")
    kind = "balanced accuracy" if run.result.get("balanced", False) else "accuracy"
    winner, confirmed = run.result.get("winner") == number, weights == best_weights(run.folder)
    figures = (
        _confirmed(run.result, kind)
        if confirmed
        else {f"{kind}, validation": f"{100 * row.accuracy:.1f} % (one short training of the search)"}
    )
    figures |= _latencies(run, row, run.result["targets"] if confirmed else [])
    figures |= _sizes(int(row.macs), int(row.params))
    figures["seeds"] = f"{run.config.seed} of the search, {row.seed} of the trial"
    limits = [SHORT, ONE_DATA, ONE_MACHINE]
    if run.config.precision != "fp32":
        limits.append(
            f"Its milliseconds are those of {run.config.precision}; its accuracy, and the files that `hybridnas "
            "export` writes, are of fp32."
        )
    return Card(
        f"It is trial {number}, {'the winner' if winner else 'one'} of {len(run.trials)} architectures that a search "
        "by hybridnas tried.",
        figures,
        run.config.data,
        run.config.seed,
        ["hybridnas", "train", "architecture.json", "--data", run.config.data, "--seed", str(run.config.seed)]
        + _more_flags(run.config),
        limits if confirmed else [UNCONFIRMED, *limits],
        str(environment.get("data_fingerprint", "")),
        {name: str(version) for name, version in environment.get("versions", {}).items() if name != "optuna"},
    )


def training_card(folder: Path, config: TrainConfig, model: HybridNet) -> Card:
    """Of a full training that ended.

    Raises:
        RunError: result.json is damaged.
    """
    result = _read(folder / "result.json")
    kind = "balanced accuracy" if result.get("balanced", False) else "accuracy"
    try:
        figures = {
            f"{kind}, validation": f"{100 * result['accuracy']:.1f} % (epoch {result['epoch']} of {config.epochs})",
            f"{kind}, test": f"{100 * result['test_accuracy']:.1f} % (looked at once)",
        }
    except (KeyError, TypeError) as error:
        raise RunError(f"{folder / 'result.json'} is damaged: it lacks {error}.") from None
    deployed = model.deploy()
    figures |= _sizes(count_macs(deployed, model.architecture.image_size), num_params(deployed))
    figures["seeds"] = f"{config.seed} of the training, {config.split_seed or 0} of the split"
    flags = {
        "--data": config.data,
        "--epochs": config.epochs,
        "--pretrained": config.pretrained,
        "--batch-size": config.batch_size,
        "--learning-rate": config.learning_rate,
        "--augment": config.augment,
        "--image-size": config.image_size,
        "--train-images": config.train_images,
        "--seed": config.seed,
    }
    given = [word for flag, value in flags.items() if value is not None for word in (flag, str(value))]
    # The file beside the card is the architecture; whose weights and split a training began with, its ARCH tells alone.
    began = config.pretrained == "timm" or (config.freeze_backbone and config.pretrained is None)
    named = began or (config.split_seed or 0) != config.seed
    given += ["--freeze-backbone"] * config.freeze_backbone + _more_flags(config)
    return Card(
        f"It was trained by hybridnas for {config.epochs} epochs; these are the averaged weights of the best.",
        figures,
        str(config.data),
        config.split_seed or 0,
        ["hybridnas", "train", config.architecture if named else "architecture.json", *given],
        [ONE_DATA],
    )


def _more_flags(config: SearchConfig | TrainConfig) -> list[str]:
    """What hangs on the data."""
    usual = TrainConfig.model_fields["max_bad"].default
    return ["--flip"] * config.flip + (["--max-bad", str(config.max_bad)] if config.max_bad != usual else [])


def _confirmed(result: dict[str, Any], kind: str) -> dict[str, str]:
    """The winner's accuracy, with its interval."""
    seeds = f"mean of {result['seeds']} seeds" if result.get("seeds", 1) > 1 else "one seed"
    margin = f" +- {100 * result['margin']:.1f}" if "margin" in result else ""
    epochs = f", {result['epochs']} epochs" if "epochs" in result else ""
    return {
        f"{kind}, validation": f"{100 * result['accuracy']:.1f}{margin} % (95 % interval; {seeds}{epochs})",
        f"{kind}, test": f"{100 * result['test_accuracy']:.1f} % (looked at once)",
    }


def _latencies(run: Run, row: pd.Series[Any], confirmed: list[dict[str, Any]]) -> dict[str, str]:
    """The milliseconds on each target: of the exported file where that was timed, else of the search."""
    found = {}
    setting = f"{run.config.runtime} {run.config.precision}, batch {run.config.latency_batch_size}"
    setting += f", {run.config.threads} thread{'' if run.config.threads == 1 else 's'}"
    for i, target in enumerate(run.config.targets):
        of = f" {target}" if i else ""
        figures = (
            confirmed[i]
            if confirmed
            else {name.removesuffix(of): row.get(name) for name in row.index if name.endswith(of)}
        )
        p50, low, high, p95 = (_number(figures.get(f"latency_ms_{name}")) for name in ("p50", "low", "high", "p95"))
        if p50 is not None and low is not None and high is not None and p95 is not None:
            when = "the exported file" if confirmed else "in the search"
            interval = f"{low:.2f} to {high:.2f}"
            found[f"latency, {target}"] = f"p50 {p50:.2f} ms ({interval}), p95 {p95:.2f} ({setting}; {when})"
    return found


def _number(value: Any) -> float | None:
    return None if value is None or pd.isna(value) else float(value)


def _sizes(macs: int, params: int) -> dict[str, str]:
    return {"multiply-adds": f"{macs / 1e6:.2f} M", "parameters": f"{params / 1e3:.0f} k"}


def _read(path: Path) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads(path.read_bytes())
        found.keys()
    except (OSError, ValueError, AttributeError) as error:
        raise RunError(f"{path} cannot be read: {first_clause(error)}.") from None
    return found
