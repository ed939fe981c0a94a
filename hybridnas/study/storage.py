"""What a search keeps on disk: one Optuna study a rung in study.db, trials.csv, the front's weights, checkpoints.

A trial is stored whole when it ends a rung, in one write: a kill loses what is in flight and leaves nothing half done.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path

import optuna
from optuna.trial import FrozenTrial

from hybridnas.errors import RunError, UserError, first_clause
from hybridnas.files import full_disk_said, write_atomic
from hybridnas.study.objective import Direction
from hybridnas.study.records import TrialRecord, table

RECORD = "record"

optuna.logging.set_verbosity(optuna.logging.WARNING)


class Storage:
    """The files of a run folder.

    Args:
        folder: The run folder.
        num_rungs: One study each, named 'rung 0' and so on.
        directions: Of the values of all trials, in Optuna's words.

    Raises:
        RunError: study.db is damaged, or of another search.
    """

    def __init__(self, folder: Path, num_rungs: int, directions: Sequence[Direction]) -> None:
        from sqlalchemy.exc import SQLAlchemyError

        self.folder = folder
        path = folder / "study.db"
        try:
            storage = optuna.storages.get_storage(f"sqlite:///{path}")
            self.studies = [
                optuna.create_study(
                    storage=storage, study_name=f"rung {rung}", directions=list(directions), load_if_exists=True
                )
                for rung in range(num_rungs)
            ]
        except (SQLAlchemyError, RuntimeError) as error:
            first = str(error).partition("\n")[0]
            raise RunError(f"{path} cannot be opened: {first}.") from None
        if any([way.name.lower() for way in study.directions] != list(directions) for study in self.studies):
            raise RunError(f"{path} is of a search with another objective.")

    def load(self) -> list[tuple[int, FrozenTrial, TrialRecord]]:
        """All trials with their rungs: the lower rungs first, within one as they ended.

        Raises:
            RunError: study.db is damaged, or of something else.
        """
        from sqlalchemy.exc import SQLAlchemyError

        try:
            return [
                (rung, trial, TrialRecord.from_json(trial.user_attrs[RECORD]))
                for rung, study in enumerate(self.studies)
                for trial in study.get_trials(deepcopy=False)
            ]
        except (SQLAlchemyError, KeyError, TypeError, ValueError, UserError) as error:
            raise RunError(f"{self.folder / 'study.db'} cannot be read: {first_clause(error)}.") from None

    def add(self, rung: int, trial: FrozenTrial, records: Sequence[TrialRecord]) -> None:
        """Keep a trial that ended a rung, and the table of all.

        Raises:
            DiskFullError: there is no room for it.
        """
        with full_disk_said(self.folder):
            self.studies[rung].add_trial(trial)
        self.write_table(records)

    def write_table(self, records: Sequence[TrialRecord]) -> None:
        """Write trials.csv, which follows from the trials."""
        write_atomic(self.folder / "trials.csv", table(records).to_csv(index=False))

    def weights(self, number: int) -> Path:
        """Where the weights of a trial lie that is among the best."""
        return self.folder / "checkpoints" / f"trial-{number}.safetensors"

    def checkpoint(self, number: int) -> Path:
        """Where a training lies that was stopped at a rung."""
        return self.folder / "checkpoints" / f"stopped-{number}.pt"

    def confirmed(self, number: int, seed: int) -> Path:
        """Where the weights of a trial lie that was trained longer."""
        return self.folder / "checkpoints" / f"confirmed-{number}-{seed}.safetensors"

    def clear_confirmed(self) -> None:
        """Remove these."""
        for path in (self.folder / "checkpoints").glob("confirmed-*"):
            path.unlink()

    def clear(self, best: Collection[int], stopped: Collection[int], running: Collection[int]) -> None:
        """Remove the weights of all but the best trials and the stopped trainings of all but some.

        What belongs to trainings in flight stays, also what is being written.
        """
        kept = {*map(self.weights, [*best, *running]), *map(self.checkpoint, [*stopped, *running])}
        for path in (self.folder / "checkpoints").glob("[!.]*-*.*"):
            if path not in kept:
                path.unlink(missing_ok=True)
