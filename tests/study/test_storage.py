"""What a search keeps: how much work a long study makes, and what is said where it cannot be kept."""

from __future__ import annotations

import json
import random
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from fakes import made_up_record
from optuna.exceptions import StorageInternalError
from sqlalchemy import event
from sqlalchemy.exc import OperationalError

from hybridnas import SearchSpace
from hybridnas.errors import RunError
from hybridnas.study.objective import Objective
from hybridnas.study.proposals import Proposals
from hybridnas.study.records import TrialRecord
from hybridnas.study.storage import Storage

DIRECTIONS = Objective().directions


@contextmanager
def statements(storage: Storage) -> Iterator[list[str]]:
    """The SQL that a storage runs."""
    found: list[str] = []

    def note(connection: object, cursor: object, statement: str, *_: object) -> None:
        found.append(statement)

    assert storage._database
    event.listen(storage._database.engine, "before_cursor_execute", note)
    try:
        yield found
    finally:
        event.remove(storage._database.engine, "before_cursor_execute", note)


def test_300_trials_are_read_by_few_queries_and_one_more_is_one_line(tmp_path: Path) -> None:
    space = SearchSpace.load("tiny")
    generator = random.Random(0)
    designs = [space.sample(lambda _, values: generator.choice(values)) for _ in range(400)]
    every = list({design.key: design for design in designs}.values())[:301]
    records: list[TrialRecord] = [made_up_record(number, design) for number, design in enumerate(every)]
    last = Proposals(space, Objective(), 2, seed=0).frozen(records[300], -1.0)
    (tmp_path / "empty").mkdir()
    empty, storage = (Storage(folder, 2, DIRECTIONS) for folder in (tmp_path / "empty", tmp_path))
    write_quickly(tmp_path / "study.db", records[:300])

    with statements(storage) as read:
        found = storage.load()
    assert [record for _, record, _ in found] == records[:300]
    assert len(read) <= 3 * len(storage.studies)
    with statements(storage) as read:
        assert storage.load() == []
    assert len(read) <= len(storage.studies)

    table = tmp_path / "trials.csv"
    storage.write_table(records[:300])
    before = table.read_bytes(), table.stat().st_ino
    with statements(storage) as written, statements(empty) as written_alone:
        storage.add(0, last, records)
        empty.add(0, last, records[300:])
    assert len(written) == len(written_alone), "what one trial costs does not grow with the others"
    assert table.stat().st_ino == before[1] and table.read_bytes().startswith(before[0])
    assert len(table.read_bytes().splitlines()) == 302
    for each in (storage, empty):
        each.close()


def write_quickly(study: Path, records: list[TrialRecord]) -> None:
    """Trials as the search writes them, as far as it reads them back, in one transaction."""
    with sqlite3.connect(study) as database:
        database.executemany(
            "INSERT INTO trials (trial_id, number, study_id, state) VALUES (?, ?, 1, 'COMPLETE')",
            [(record.number + 1, record.number) for record in records],
        )
        database.executemany(
            "INSERT INTO trial_user_attributes (trial_id, key, value_json) VALUES (?, 'record', ?)",
            [(record.number + 1, json.dumps(record.to_json())) for record in records],
        )
    database.close()


def test_a_study_that_optuna_cannot_open_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(**_: object) -> None:
        raise StorageInternalError("An exception is raised during the commit.\nIt had its reasons.")

    monkeypatch.setattr("optuna.create_study", fail)
    with pytest.raises(RunError, match=r"study\.db cannot be opened: An exception is raised[^\n]*$"):
        Storage(tmp_path, 1, DIRECTIONS)


def test_a_study_that_cannot_be_written_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As where another program has it open to write for long, or its disk is broken."""
    space = SearchSpace.load("tiny")
    record = made_up_record(0, space.sample(lambda _, values: values[0]))
    storage = Storage(tmp_path, 1, DIRECTIONS)

    def locked(trial: object) -> None:
        try:
            raise OperationalError("INSERT", {}, sqlite3.OperationalError("database is locked"))
        except OperationalError as error:
            raise StorageInternalError("An exception is raised during the commit.") from error

    monkeypatch.setattr(storage.studies[0], "add_trial", locked)
    with pytest.raises(RunError, match=r"study\.db cannot be written: [^\n]*database is locked[^\n]*$"):
        storage.add(0, Proposals(space, Objective(), 1, seed=0).frozen(record, -1.0), [record])
    storage.close()


@pytest.mark.parametrize("part", ["record", "cost", "architecture"])
def test_a_record_with_a_field_that_is_not_known_is_no_record(part: str) -> None:
    record = made_up_record(0, SearchSpace.load("tiny").sample(lambda _, values: values[0]))
    fields = json.loads(record.to_json())
    {"record": fields, "cost": fields["costs"][0], "architecture": fields["architecture"]}[part]["colour"] = "red"
    assert TrialRecord.from_json(record.to_json()) == record
    with pytest.raises(ValueError, match=r"colour: "):
        TrialRecord.from_json(json.dumps(fields))
