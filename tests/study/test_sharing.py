"""Several searches on one PostgreSQL server, which the tests start; they are skipped where none is installed."""

from __future__ import annotations

import glob
import os
import pwd
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import drivers
import murders
import optuna
import pytest
from processes import SECONDS, wait_for_rows

from hybridnas import SearchConfig, run_search
from hybridnas.errors import ConfigError, RunError
from hybridnas.study import sharing
from hybridnas.study.records import TrialRecord
from hybridnas.study.run import Run
from hybridnas.study.sharing import Claims, read_url, without_password

PASSWORD = "s3cret"


class Server:
    """A PostgreSQL server of our own on a free port of loopback."""

    def __init__(self, programs: Path, folder: Path) -> None:
        self.programs, self.data = programs, folder / "data"
        self.user = "postgres" if os.getuid() == 0 else None  # it refuses to run as root
        if self.user:
            os.chown(folder, pwd.getpwnam(self.user).pw_uid, -1)
        (folder / "password").write_text(PASSWORD)
        (folder / "password").chmod(0o644)
        self._run("initdb", "-U", "nas", "-A", "scram-sha-256", f"--pwfile={folder / 'password'}", "-D", self.data)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.start()

    @property
    def url(self) -> str:
        return f"postgresql+psycopg://nas:{PASSWORD}@127.0.0.1:{self.port}/postgres"

    def start(self) -> None:
        options = f"-p {self.port} -c listen_addresses=127.0.0.1 -c unix_socket_directories='' -c fsync=off"
        self._run("pg_ctl", "-w", "-D", self.data, "-l", self.data / "log", "-o", options, "start")

    def stop(self) -> None:
        self._run("pg_ctl", "-w", "-D", self.data, "-m", "immediate", "stop")

    def _run(self, program: str, *arguments: object) -> None:
        command = [str(self.programs / program), *map(str, arguments)]
        subprocess.run(command, check=True, user=self.user, cwd="/", stdout=subprocess.DEVNULL)


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    found = sorted(glob.glob("/usr/lib/postgresql/*/bin/initdb")) or [shutil.which("initdb") or ""]
    if not found[-1]:
        pytest.skip("no PostgreSQL is installed here")
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        made = Server(Path(found[-1]).parent, Path(folder))
        yield made
        made.stop()


def test_what_one_claims_no_other_may_until_it_is_released(server):
    url = read_url(server.url)
    one, other, elsewhere = Claims(url, "a"), Claims(url, "a"), Claims(url, "b")
    assert one.claim("x") and one.claim("x") and not other.claim("x") and other.claim("y") and elsewhere.claim("x")
    one.release("x")
    assert other.claim("x") and not one.claim("x")
    other.close()
    assert one.claim("x") and one.claim("y")
    server.stop()
    server.start()
    late = Claims(url, "a")  # a search that begins just then waits, too
    assert not late.claim("x"), "a search that is busy with something else takes its claims again, too"
    assert one.claim("z")
    assert not late.claim("x") and not late.claim("z"), "and takes its claims along"
    for each in (one, late, elsewhere):
        each.close()


def test_two_searches_share_trials_over_a_restart_of_the_server(server, tmp_path, space_file, npz_file):
    folders = [tmp_path / "one", tmp_path / "two"]
    processes = [
        subprocess.Popen(
            [sys.executable, drivers.__file__, space_file, npz_file, folder, server.url, "14"],
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            stderr=subprocess.PIPE,
            text=True,
        )
        for folder in folders
    ]
    wait_for_rows(folders[0] / "trials.csv", 4)
    server.stop()
    time.sleep(1)
    server.start()
    said = [process.communicate(timeout=SECONDS)[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], said

    storage = optuna.storages.RDBStorage(server.url)
    trials = [optuna.load_study(study_name=f"shared rung {rung}", storage=storage).trials for rung in range(2)]
    storage.remove_session()
    storage.engine.dispose()
    for rung in range(2):
        keys = [trial.user_attrs["key"] for trial in trials[rung]]
        assert len(keys) == len(set(keys)), "nothing is trained twice"
        if rung == 0:
            records = [TrialRecord.from_json(trial.user_attrs["record"]) for trial in trials[rung]]
            assert sorted(record.number for record in records) == [*range(len(records))]
            assert sum(record.status != "infeasible" for record in records) in (14, 15)
    runs = [Run.load(folder) for folder in folders]
    assert all(len(run.trials) >= 13 and run.best.key for run in runs)
    assert all(len((folder / "trained").read_text()) >= 4 for folder in folders)
    for path in tmp_path.rglob("*"):
        assert not path.is_file() or PASSWORD.encode() not in path.read_bytes(), path
    assert all(PASSWORD not in each for each in said)
    assert runs[0].config.storage == without_password(server.url)


def test_a_study_of_another_search_is_refused(server, tmp_path, monkeypatch, space_file, npz_file):
    monkeypatch.setattr("hybridnas.timing.Timer", murders.make_timer)
    config = SearchConfig(
        space=str(space_file), data=str(npz_file), epochs=1, trials=2, threads=1, storage=server.url, study="mine"
    )
    run_search(config.model_copy(update={"out": tmp_path / "a"}))
    with pytest.raises(RunError, match=r"the study 'mine' in postgresql\S+ is of a search with another training: 1 ep"):
        run_search(config.model_copy(update={"out": tmp_path / "b", "epochs": 2}))
    # Going on needs the password again, and nothing else.
    again = run_search(SearchConfig(out=tmp_path / "a", trials=3, storage=server.url), resume=True)
    assert (again.trials.status == "complete").sum() == 3
    with pytest.raises(ConfigError, match=r"--storage postgresql\+psycopg://nas@127.0.0.1:\d+/postgres cannot be used"):
        run_search(SearchConfig(out=tmp_path / "a", trials=4), resume=True)


@pytest.mark.parametrize(
    ("storage", "said"),
    [
        ("nonsense", "--storage must be such as postgresql"),
        ("mysql://a:s3cret@b/c", "--storage: mysql is not supported"),
        (f"postgresql+psycopg://nas:{PASSWORD}@127.0.0.1:1/db", "127.0.0.1:1/db cannot be used: "),
        (f"postgresql+psycopg://127.0.0.1:1/db?user=nas&password={PASSWORD}", "/db?user=nas cannot be used: "),
    ],
)
def test_a_server_that_cannot_be_used_is_said_without_its_password(storage, said, tmp_path, space_file, npz_file):
    config = SearchConfig(space=str(space_file), data=str(npz_file), storage=storage, out=tmp_path / "run", threads=1)
    with pytest.raises(ConfigError, match="(?s)" + re.escape(said)) as caught:
        run_search(config)
    assert PASSWORD not in str(caught.value) and "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_a_server_that_stays_away_ends_the_search(monkeypatch):
    monkeypatch.setattr(sharing, "PATIENCE_S", 0.2)
    monkeypatch.setattr(sharing, "PAUSE_S", 0.01)
    url = read_url("postgresql+psycopg://nas:s3cret@127.0.0.1:1/db")

    def ask():
        raise sharing.DBAPIError("SELECT", {}, Exception("gone"))

    with pytest.raises(ConfigError, match=r"--storage \S+ cannot be used: \(builtins.Exception\) gone"):
        sharing.patiently(url, ask)
