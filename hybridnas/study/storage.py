"""What a search keeps on disk: one Optuna study a rung in study.db, trials.csv, the weights of the best, checkpoints.

A trial is stored whole when it ends a rung, in one write: a kill loses what is in flight and leaves nothing half done.
The studies may lie on a PostgreSQL server instead, and be shared with other searches.
"""

from __future__ import annotations

import json
import time
from collections import defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote

import optuna
from optuna.exceptions import StorageInternalError
from optuna.storages import RDBStorage
from optuna.trial import FrozenTrial
from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError

from hybridnas.collecting import without_collecting
from hybridnas.errors import RunError, UserError, first_clause
from hybridnas.files import append, full_disk_said, write_atomic
from hybridnas.study.objective import Direction
from hybridnas.study.records import TrialRecord, header, line
from hybridnas.study.run import trial_weights
from hybridnas.study.sharing import PAUSE_S, Alone, Claims, patiently, promptly, read_url, without_password

R = TypeVar("R")

RECORD, ABOUT = "record", "about"
STUDY_FILE = "study.db"

optuna.logging.set_verbosity(optuna.logging.WARNING)


def sqlite_url(path: Path, *, read_only: bool = False) -> str:
    """The address of a database file, whatever characters stand in its name."""
    mode = "ro" if read_only else "rwc"
    return f"sqlite:///file:{quote(str(path.absolute()))}?mode={mode}&uri=true"


class Storage:
    """The files of a run folder, and its studies.

    Args:
        folder: The run folder.
        num_rungs: One study each, named 'rung 0' and so on.
        directions: Of the values of all trials, in Optuna's words.
        about: What the searches that share a study must have in common, by name.
        url: Of a PostgreSQL server that has the studies; None keeps them in study.db.
        name: Of the study there, shared by searches that give the same.

    Raises:
        RunError: the studies are damaged, or of another search.
        ConfigError: the server cannot be reached.
    """

    def __init__(
        self,
        folder: Path,
        num_rungs: int,
        directions: Sequence[Direction],
        about: Mapping[str, str] = {},  # noqa: B006 (nothing changes it)
        url: str | None = None,
        name: str = "",
    ) -> None:
        self.folder = folder
        self._url = read_url(url) if url else None
        self.claims = Claims(self._url, name) if self._url else Alone()
        self.place = f"the study {name!r} in {without_password(url)}" if url else str(folder / STUDY_FILE)
        self._known: set[tuple[int, str]] = set()
        self._last = [0] * num_rungs  # Optuna's id of the last trial that was read, by rung
        self._lines: dict[int, tuple[TrialRecord, str]] = {}  # of trials.csv, by number
        self._written: list[str] = []  # all of them, as they stand there
        address = self._url.render_as_string(hide_password=False) if self._url else sqlite_url(folder / STUDY_FILE)
        names = [f"{name} rung {rung}" if url else f"rung {rung}" for rung in range(num_rungs)]
        self._database: RDBStorage | None = None
        try:
            while not self.claims.claim("opening"):
                time.sleep(PAUSE_S)
            on_server = {"pool_pre_ping": True, "connect_args": promptly(self._url)} if self._url else {}
            self._database = RDBStorage(address, engine_kwargs=on_server)
            self.studies = [
                optuna.create_study(
                    storage=self._database, study_name=name, directions=list(directions), load_if_exists=True
                )
                for name in names
            ]
            then: dict[str, str] = self.studies[0].user_attrs.get(ABOUT) or {}
            if not then:
                self.studies[0].set_user_attr(ABOUT, dict(about))
            self.claims.release("opening")
            self._check(directions, then, about)
        except (SQLAlchemyError, RuntimeError, StorageInternalError) as error:
            self.close()
            raise RunError(f"{self.place} cannot be opened: {first_clause(error.__cause__ or error)}.") from None
        except RunError:
            self.close()
            raise

    def _check(self, directions: Sequence[Direction], then: Mapping[str, str], about: Mapping[str, str]) -> None:
        if any([way.name.lower() for way in study.directions] != list(directions) for study in self.studies):
            raise RunError(f"{self.place} is of a search with another objective{self._way_out}.")
        for what, now in about.items():
            if then.get(what, now) != now:  # an older version did not say all
                raise RunError(
                    f"{self.place} is of a search with another {what}: {then[what]}, not {now}{self._way_out}."
                )

    @property
    def _way_out(self) -> str:
        return "; give this search a name of its own by --study" if self.is_shared else ""

    def close(self) -> None:
        """Release all claims, and close what has the studies; everything is kept already."""
        self.claims.close()
        if self._database:
            self._database.remove_session()
            self._database.engine.dispose()

    @property
    def is_shared(self) -> bool:
        """Whether others add trials."""
        return self._url is not None

    def load(self) -> list[tuple[int, TrialRecord, dict[str, Any]]]:
        """All trials that were not loaded before, nor added here: rung, record and what the sampler noted.

        They are in the order in which they ended, each rung of a trial by itself.

        Raises:
            RunError: the studies are damaged, or of something else.
        """
        try:
            with without_collecting():
                found = [
                    (rung, TrialRecord.from_json(record), attrs)
                    for rung in range(len(self.studies))
                    for record, attrs in self._rows(rung)
                ]
        except (SQLAlchemyError, KeyError, TypeError, ValueError, UserError) as error:
            if self.is_shared and isinstance(error, UserError):
                raise
            raise RunError(f"{self.place} cannot be read: {first_clause(error)}.") from None
        found = [each for each in found if (each[0], each[1].architecture.key) not in self._known]
        self._known |= {(rung, record.architecture.key) for rung, record, _ in found}
        return sorted(found, key=lambda each: each[1].ended)

    def _rows(self, rung: int) -> list[tuple[str, dict[str, Any]]]:
        """Records and notes of a rung's trials that were not read before.

        From Optuna's tables: its own reading makes objects of all parameters, which takes thirty times as long. Trials
        of a study get their ids one after the other, under a lock on it.
        """
        records = (
            "SELECT t.trial_id, a.value_json FROM trials AS t "
            "LEFT JOIN trial_user_attributes AS a ON a.trial_id = t.trial_id AND a.key = :key "
            "WHERE t.study_id = :study AND t.trial_id > :last ORDER BY t.trial_id"
        )
        notes = (
            "SELECT t.trial_id, a.key, a.value_json FROM trials AS t "
            "JOIN trial_system_attributes AS a ON a.trial_id = t.trial_id "
            "WHERE t.study_id = :study AND t.trial_id > :last"
        )
        read = self._select(rung, records, key=RECORD, last=self._last[rung])
        if not read:
            return []
        noted: defaultdict[int, dict[str, Any]] = defaultdict(dict)
        for trial, key, value in self._select(rung, notes, last=self._last[rung]):
            noted[trial][key] = json.loads(value)
        if any(record is None for _, record in read):
            raise ValueError("a trial has no record")
        self._last[rung] = read[-1][0]
        return [(json.loads(record), noted[trial]) for trial, record in read]

    def _select(self, rung: int, query: str, **values: Any) -> list[Any]:
        """Rows of Optuna's tables; `:study` stands for a rung's study."""

        def select() -> list[Any]:
            assert self._database is not None
            with self._database.engine.connect() as connection:
                return list(connection.execute(text(query), {"study": self.studies[rung]._study_id} | values))

        return self._on_server(select)

    def _on_server(self, do: Callable[[], R]) -> R:
        """Do something with the studies, patiently where a server has them."""
        return patiently(self._url, do) if self._url else do()

    def add(self, rung: int, trial: FrozenTrial, records: Sequence[TrialRecord]) -> None:
        """Keep a trial that ended a rung, and the table of all.

        Raises:
            DiskFullError: there is no room for it.
            RunError: the study cannot be written for another reason.
        """
        key = trial.user_attrs["key"]

        def put() -> None:
            # A server may have gone away after it had kept the trial, or with this search's claim to it.
            if not (self.is_shared and self._has(rung, key)):
                self.studies[rung].add_trial(trial)

        try:
            with full_disk_said(self.folder):
                self._on_server(put)
        except (SQLAlchemyError, StorageInternalError) as error:
            raise RunError(f"{self.place} cannot be written: {first_clause(error.__cause__ or error)}.") from None
        self._known.add((rung, key))
        self.write_table(records)

    def _has(self, rung: int, key: str) -> bool:
        """Whether a rung has a trial of an architecture."""
        query = (
            "SELECT t.trial_id FROM trials AS t JOIN trial_user_attributes AS a ON a.trial_id = t.trial_id "
            "WHERE t.study_id = :study AND a.key = 'key' AND a.value_json = :architecture"
        )
        return bool(self._select(rung, query, architecture=json.dumps(key)))

    def write_table(self, records: Sequence[TrialRecord]) -> None:
        """Write trials.csv, which follows from the trials; of a long one only the line that is new."""
        for record in records:
            if record is not self._lines.get(record.number, (None, ""))[0]:
                self._lines[record.number] = record, line(record)
        lines = [header(records[0]), *(self._lines[record.number][1] for record in records)]
        path = self.folder / "trials.csv"
        if lines[:-1] == self._written and path.is_file():
            append(path, lines[-1])
        else:
            write_atomic(path, "".join(lines))
        self._written = lines

    def weights(self, number: int) -> Path:
        """Where the weights of a trial lie that is among the best."""
        return trial_weights(self.folder, number)

    def checkpoint(self, number: int) -> Path:
        """Where a training lies that was stopped at a rung."""
        return self.folder / "checkpoints" / f"stopped-{number}.pt"

    def confirmed(self, number: int, seed: int) -> Path:
        """Where the weights of a trial lie that was trained longer."""
        return self.folder / "checkpoints" / f"confirmed-{number}-{seed}.safetensors"

    def baseline(self, name: str) -> Path:
        """Where the weights of a known design or model lie for as long as it is tested."""
        return self.folder / "checkpoints" / f"baseline-{name}.safetensors"

    def clear_confirmed(self) -> None:
        """Remove these."""
        for path in (self.folder / "checkpoints").glob("confirmed-*"):
            path.unlink()

    def clear(self, best: Collection[int], stopped: Collection[int], running: Collection[int]) -> None:
        """Remove the weights of all but the best trials and the stopped trainings of all but some.

        What belongs to trainings in flight stays, also what is being written.
        """
        kept = {"trial": {*best, *running}, "stopped": {*stopped, *running}}  # as `weights` and `checkpoint` name them
        for path in (self.folder / "checkpoints").glob("[!.]*-*.*"):
            kind, _, number = path.stem.partition("-")
            if not (number.isdecimal() and int(number) in kept.get(kind, ())):
                path.unlink(missing_ok=True)
