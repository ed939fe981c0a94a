"""How far the accuracies of a run may be believed: some of its networks trained much longer, and compared."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
from rich.console import Console

from hybridnas.architecture import LETTERS, Architecture
from hybridnas.errors import ConfigError, RunError, TrainingFailed
from hybridnas.files import write_atomic
from hybridnas.locks import owned
from hybridnas.pipeline import recipe_of, trainer_of
from hybridnas.proxy.training import Recipe, Trainer
from hybridnas.proxy.trust import Trust, compare, verdict
from hybridnas.report.progress import say
from hybridnas.seeds import derive_seed
from hybridnas.study.run import Run, check_goes_on

FILE = "trust.json"
NUM_NETWORKS, NUM_SEEDS, LONGER = 12, 2, 5
#: Networks of about equal latency that are compared with each other.
GROUP = 4
#: Fewer cannot be compared.
LEAST_NETWORKS, LEAST_SEEDS = 3, 2


@dataclass
class Trained:
    """What `trust.json` holds: accuracies of the long trainings by trial and seed, for so many epochs."""

    path: Path
    epochs: int
    accuracies: dict[int, dict[int, float]]

    @classmethod
    def load(cls, folder: Path, epochs: int) -> Trained:
        """Those of an earlier call for as many epochs; those of another number are kept beside it.

        Raises:
            RunError: the file is damaged.
        """
        path = folder / FILE
        try:
            if path.is_file() and (then := int(json.loads(path.read_bytes())["epochs"])) != epochs:
                path.replace(_beside(path, then))
            if not path.is_file() and _beside(path, epochs).is_file():
                _beside(path, epochs).replace(path)
            if not path.is_file():
                return cls(path, epochs, {})
            stored = json.loads(path.read_bytes())
            return cls(
                path,
                epochs,
                {
                    int(number): {int(seed): float(accuracy) for seed, accuracy in seeds.items()}
                    for number, seeds in stored["accuracies"].items()
                },
            )
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise RunError(f"{path} is damaged: {error}; remove it to begin anew.") from None

    def save(self, **found: Any) -> None:
        """Write all, with what was found in them."""
        stored = {"epochs": self.epochs, "accuracies": self.accuracies, **found}
        write_atomic(self.path, json.dumps(stored, indent=2))


def _beside(path: Path, epochs: int) -> Path:
    """Where trainings of another number of epochs than the last one's lie."""
    return path.with_name(f"{path.stem}-{epochs}-epochs{path.suffix}")


def trust_run(
    folder: str | Path,
    *,
    num_networks: int = NUM_NETWORKS,
    epochs: int | None = None,
    num_seeds: int = NUM_SEEDS,
    console: Console | None = None,
) -> Trust:
    """Train a sample of a run's networks longer and compare; each training is kept in trust.json as it ends.

    Args:
        folder: The run folder.
        num_networks: How many of its trained trials, in groups of about equal latency.
        epochs: Of each long training; None is five times the run's.
        num_seeds: Of each network.
        console: Where progress and the verdict are printed; None prints nothing.

    Raises:
        ConfigError: too few networks, seeds or epochs.
        RunError: the run has too few trained trials, its data have changed, or another process is at it.
    """
    console = console or Console(quiet=True)
    run = Run.load(folder)
    check_goes_on(run.folder, run.config)
    recipe = recipe_of(run.config)
    longer = replace(recipe, epochs=LONGER * recipe.epochs if epochs is None else epochs)
    _check(num_networks, num_seeds, longer.epochs, recipe.epochs)
    sample = spread_sample(run.trials, num_networks)
    with owned(run.folder):
        return _trust(run, sample, longer, num_seeds, console)


def _trust(run: Run, sample: pd.DataFrame, longer: Recipe, num_seeds: int, console: Console) -> Trust:
    trained = Trained.load(run.folder, longer.epochs)
    seeds = [derive_seed(run.config.seed, "trust", k) for k in range(num_seeds)]
    left = [(int(n), s) for n in sample.number for s in seeds if s not in trained.accuracies.get(int(n), {})]
    if left:
        per_epoch = float((sample.seconds / recipe_of(run.config).epochs).mean())
        say(
            console,
            f"{len(sample)} networks, {num_seeds} seeds, {longer.epochs} epochs each: {len(left)} trainings to go, "
            f"about {math.ceil(per_epoch * longer.epochs * len(left) / 60)} min",
        )
        _train(run, trainer_of(run, console), longer, left, trained, partial(say, console))

    whole = sample[[len(trained.accuracies.get(int(n), {})) >= num_seeds for n in sample.number]]
    if len(whole) < LEAST_NETWORKS:
        raise RunError(
            f"{run.folder}: only {len(whole)} networks could be trained longer; {LEAST_NETWORKS} are needed."
        )
    found = compare(
        whole.accuracy.tolist(),
        [[trained.accuracies[int(n)][s] for s in seeds] for n in whole.number],
        whole.worst_latency.tolist(),
        whole.macs.tolist(),
        whole.params.tolist(),
        [attention_share(run.architecture(int(n))) for n in whole.number],
    )
    trained.save(trust=asdict(found), verdict=verdict(found))
    _tell(console, found, num_seeds, run.folder)
    return found


def _check(num_networks: int, num_seeds: int, epochs: int, before: int) -> None:
    if num_networks < LEAST_NETWORKS:
        raise ConfigError(f"--networks must be at least {LEAST_NETWORKS}, got {num_networks}.")
    if num_seeds < LEAST_SEEDS:
        raise ConfigError(f"--seeds must be at least {LEAST_SEEDS}, got {num_seeds}: one cannot be told from luck.")
    if epochs <= before:
        raise ConfigError(f"--epochs must be over the {before} of the search, got {epochs}.")


def spread_sample(trials: pd.DataFrame, num_networks: int) -> pd.DataFrame:
    """Trained trials in groups of neighbours in latency, as pairs of equal latency are compared; the groups spread out.

    Raises:
        RunError: there are fewer than three.
    """
    done = trials[trials.status == "complete"].drop_duplicates("key").sort_values(["worst_latency", "number"])
    if len(done) < LEAST_NETWORKS:
        raise RunError(f"The run has {len(done)} trained trials; at least {LEAST_NETWORKS} are needed to compare.")
    count = min(num_networks, len(done))
    groups = max(1, count // GROUP)
    sizes = [count // groups + (g < count % groups) for g in range(groups)]
    free = len(done) - count
    starts = [sum(sizes[:g]) + (g * free // (groups - 1) if groups > 1 else free // 2) for g in range(groups)]
    return done.iloc[[start + k for start, size in zip(starts, sizes, strict=True) for k in range(size)]]


def attention_share(architecture: Architecture) -> float:
    """Share of the blocks that attend, 0..1."""
    blocks = sum(stage.depth for stage in architecture.stages)
    attend = sum(stage.depth for stage in architecture.stages if LETTERS[stage.block] == "T")
    return attend / max(1, blocks)


def _train(
    run: Run,
    trainer: Trainer,
    recipe: Recipe,
    left: list[tuple[int, int]],
    trained: Trained,
    tell: Callable[[str], None],
) -> None:
    failed: set[int] = set()
    for done, (number, seed) in enumerate(left, 1):
        if number in failed:
            continue
        architecture = run.architecture(number)
        try:
            result = trainer.train(architecture, recipe, seed=seed)
        except TrainingFailed as error:
            failed.add(number)
            tell(f"{done:4d} of {len(left)}: trial {number} is left out: {error}")
            continue
        trained.accuracies.setdefault(number, {})[seed] = result.accuracy
        trained.save()
        tell(
            f"{done:4d} of {len(left)}: trial {number} {100 * result.accuracy:.1f} % in {result.seconds:.0f} s  "
            f"{architecture.families}"
        )


def _tell(console: Console, trust: Trust, num_seeds: int, folder: Path) -> None:
    say(console, f"{trust.num_networks} networks, {trust.num_pairs} pairs of equal latency that differ for sure.")
    say(console, f"  short training orders right  {trust.accuracy}")
    say(console, f"  more multiply-adds wins      {trust.more_macs}")
    say(console, f"  more parameters wins         {trust.more_params}")
    say(console, f"  ceiling: one long training   {trust.ceiling}, of {num_seeds} seeds")
    say(console, f"  Kendall's tau, all networks  {trust.tau}")
    bias = trust.bias
    if not math.isnan(bias.value):
        say(
            console,
            f"  attention gains by training longer {100 * bias.value:+.1f} points over convolution "
            f"({100 * bias.low:+.1f} to {100 * bias.high:+.1f})",
        )
    say(console, f"  (`hybridnas report {folder}` shows all this on the run's page)")
    say(console, verdict(trust))
