"""Which choices of the space decide on accuracy, by what the studies of a run folder hold."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import NamedTuple

import optuna
from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy.exc import SQLAlchemyError

from hybridnas.errors import NotDrawn, RunError, first_clause
from hybridnas.proxy.rungs import ETA
from hybridnas.study.looking import read_only
from hybridnas.study.proposals import ENOUGH
from hybridnas.study.storage import STUDY_FILE

#: Of fewer trials nothing is said.
LEAST = 10


class Importances(NamedTuple):
    """The choices of a space, the most important first.

    Attributes:
        shares: By the name that Optuna has for the choice; together 1.
        rung: After which the accuracies are, counted from 0.
        num_trials: That ended it.
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
            names = sorted(study.study_name for study in storage.get_all_studies())
            return importances([optuna.load_study(study_name=name, storage=storage) for name in names])
    except (RunError, SQLAlchemyError) as error:
        raise NotDrawn(first_clause(error)) from None


def importances(studies: list[optuna.Study]) -> Importances:
    """`importances_of` for the studies of a run, one a rung, whose first value is accuracy.

    Raises:
        NotDrawn: too few trials ended the first rung, or all were alike.
    """
    rung, ended = 0, list[FrozenTrial]()
    for rung in reversed(range(len(studies))):  # reading one takes longer than all else
        ended = studies[rung].get_trials(deepcopy=False, states=[TrialState.COMPLETE])
        if len(ended) >= ENOUGH:
            break
    if len(ended) < LEAST:
        raise NotDrawn(f"{len(ended)} trials were trained, and {LEAST} are needed")
    alone = optuna.create_study(direction="maximize")
    alone.add_trials(
        [optuna.create_trial(value=t.values[0], params=t.params, distributions=t.distributions) for t in ended]
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # that the least is the best; that some choices were seen once
        found = get_param_importances(
            alone,
            evaluator=PedAnovaImportanceEvaluator(target_quantile=1 / ETA),
            target=lambda trial: -trial.values[0],
        )
    if not any(found.values()):
        raise NotDrawn("the trials differ in no choice that tells the better from the worse")
    return Importances(found, rung, len(ended))
