"""Which choices of the space decide on accuracy, by what the studies of a run folder hold."""

from __future__ import annotations

import warnings
from collections import defaultdict
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import optuna
from optuna.distributions import BaseDistribution, json_to_distribution
from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances
from optuna.storages import RDBStorage
from optuna.trial import FrozenTrial
from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError

from hybridnas.errors import NotDrawn, RunError, first_clause
from hybridnas.proxy.rungs import ENOUGH, ETA
from hybridnas.study.looking import read_only
from hybridnas.study.storage import STUDY_FILE

#: Of fewer trials nothing is said, and of so many at most: adding one to a study takes a millisecond.
LEAST, MOST = 10, 1000


class Importances(NamedTuple):
    """The choices of a space, the most important first.

    Attributes:
        shares: By the name that Optuna has for the choice; together 1.
        rung: After which the accuracies are, counted from 0.
        num_trials: Of the latest that ended it.
    """

    shares: dict[str, float]
    rung: int
    num_trials: int


def importances_of(folder: Path) -> Importances:
    """How much each choice of a run's space decides on whether a design is among the most accurate third.

    By PED-ANOVA (Watanabe et al., 2023, arXiv:2304.10255) in its form for choices that not all designs have; it draws
    nothing at random. Asked is the highest rung that enough trials ended.

    Raises:
        NotDrawn: the folder has no study, or one of too few trials, or the study cannot be read.
    """
    path = folder / STUDY_FILE
    if not path.is_file():
        raise NotDrawn(f"{folder} has no {STUDY_FILE}: a shared study lies on its server")
    try:
        with read_only(folder) as storage:
            rungs = sorted(storage.get_all_studies(), key=lambda study: study._study_id)
            return importances([_ended(storage, study._study_id) for study in rungs])
    except (RunError, SQLAlchemyError) as error:
        raise NotDrawn(first_clause(error)) from None


def importances(rungs: Sequence[Sequence[FrozenTrial]]) -> Importances:
    """`importances_of` for the trials that ended the rungs of a run, whose value is accuracy.

    Raises:
        NotDrawn: too few trials ended the first rung, or all were alike.
    """
    rung = max((i for i, ended in enumerate(rungs) if len(ended) >= ENOUGH), default=0)
    ended = rungs[rung] if rungs else ()
    if len(ended) < LEAST:
        raise NotDrawn(f"{len(ended)} trials were trained, and {LEAST} are needed")
    study = optuna.create_study(direction="maximize")
    study.add_trials(ended)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # that the least is the best; that some choices were seen once
        found = get_param_importances(
            study,
            evaluator=PedAnovaImportanceEvaluator(target_quantile=1 / ETA),
            target=lambda trial: -trial.values[0],
        )
    if not any(found.values()):
        raise NotDrawn("the trials differ in no choice that tells the better from the worse")
    ordered = sorted(found.items(), key=lambda choice: (-choice[1], choice[0]))  # Optuna's order of equals changes
    return Importances(dict(ordered), rung, len(ended))


def _ended(storage: RDBStorage, study: int) -> list[FrozenTrial]:
    """Accuracies and choices of the latest trials that ended a rung, by Optuna's id of its study.

    From Optuna's tables, as in `Storage`: its own reading of 2,000 trials takes three seconds.
    """
    latest = (
        "SELECT trial_id FROM trials WHERE study_id = :study AND state = 'COMPLETE' ORDER BY trial_id DESC LIMIT :most"
    )
    values = f"SELECT trial_id, value FROM trial_values WHERE objective = 0 AND trial_id IN ({latest})"
    choices = (
        "SELECT trial_id, param_name, param_value, distribution_json FROM trial_params "
        f"WHERE trial_id IN ({latest}) ORDER BY param_id"
    )
    asked = {"study": study, "most": MOST}
    params: defaultdict[int, dict[str, Any]] = defaultdict(dict)
    distributions: defaultdict[int, dict[str, BaseDistribution]] = defaultdict(dict)
    with storage.engine.connect() as connection:
        for trial, name, value, written in connection.execute(text(choices), asked):
            distributions[trial][name] = kind = _read(written)
            params[trial][name] = kind.to_external_repr(value)
        return [
            optuna.create_trial(value=accuracy, params=params[trial], distributions=distributions[trial])
            for trial, accuracy in connection.execute(text(values), asked)
        ]


@cache
def _read(written: str) -> BaseDistribution:
    return json_to_distribution(written)
