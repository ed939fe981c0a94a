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
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import drivers
import murders
import optuna
import pytest
from fakes import made_up_record
from optuna.exceptions import StorageInternalError
from processes import SECONDS, Warm, wait_for_rows, wait_until

from hybridnas import SearchConfig, SearchSpace, run_search
from hybridnas.errors import ConfigError, RunError
from hybridnas.study import sharing
from hybridnas.study.objective import Objective
from hybridnas.study.proposals import Proposals
from hybridnas.study.records import TrialRecord
from hybridnas.study.run import Run
from hybridnas.study.sharing import PROMPT, Claims, check_server, read_url, without_password
from hybridnas.study.storage import Storage

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


@pytest.fixture
def connected(monkeypatch: pytest.MonkeyPatch) -> list[tuple[bool, dict[str, object]]]:
    """With what connections were made, and whether the test itself did."""
    import psycopg

    seen = []
    connect = psycopg.connect

    def note(*given: object, **named: object) -> object:
        seen.append((threading.current_thread() is threading.main_thread(), named))
        return connect(*given, **named)

    monkeypatch.setattr(psycopg, "connect", note)
    return seen


def test_what_one_claims_no_other_may_until_it_is_released(server):
    url = read_url(server.url)
    one, other, elsewhere = Claims(url, "a"), Claims(url, "a"), Claims(url, "b")
    assert one.claim("x") and one.claim("x") and not other.claim("x") and other.claim("y") and elsewhere.claim("x")
    one.release("x")
    assert other.claim("x") and not one.claim("x")
    other.close()
    wait_until(lambda: one.claim("x") and one.claim("y"))  # the server sees at once that a connection is gone
    server.stop()
    server.start()
    late = Claims(url, "a")  # a search that begins just then waits, too
    assert not late.claim("x"), "a search that is busy with something else takes its claims again, too"
    assert one.claim("z")
    assert not late.claim("x") and not late.claim("z"), "and takes its claims along"
    for each in (one, late, elsewhere):
        each.close()


def test_claims_are_given_up_without_a_server(server, connected):
    claims = Claims(read_url(server.url), "gone")
    assert all(map(claims.claim, "abc"))
    server.stop()
    connected.clear()
    claims.close()
    server.start()
    assert not any(by_test for by_test, _ in connected)


def test_a_servers_clock_that_stepped_back(server, monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(sharing, "AGE_S", "SELECT -3600.0")
    sleep = SimpleNamespace(monotonic=lambda: clock[0], sleep=lambda s: clock.append(clock.pop() + s))
    monkeypatch.setattr(sharing, "time", sleep)
    claims = Claims(read_url(server.url), "back")
    assert claims.claim("x") and clock == [sharing.GRACE_S]
    claims.close()


def test_a_server_that_answers_nothing_any_more_is_noticed(server, connected, tmp_path):
    """What libpq is told; its own defaults are over two minutes and two hours."""
    check_server(server.url)
    Storage(tmp_path, 1, ["maximize"], {}, server.url, "prompt").close()
    assert len(connected) >= 3 and all(named.items() >= PROMPT.items() for _, named in connected)
    assert PROMPT["connect_timeout"] <= 10 and PROMPT["tcp_user_timeout"] <= 30_000
    connected.clear()
    check_server(server.url + "?connect_timeout=33")
    assert [int(str(named["connect_timeout"])) for _, named in connected] == [33]  # a user's own counts


def test_two_that_trained_one_design_keep_it_once(server, tmp_path, space_file):
    """As after a network that was cut: the server gave the claim to another meanwhile."""
    folders = [tmp_path / "one", tmp_path / "two"]
    for folder in folders:
        folder.mkdir()
    storages = [Storage(folder, 1, Objective().directions, {}, server.url, "cut") for folder in folders]
    space = SearchSpace.load(space_file)
    proposals = Proposals(space, Objective(), 1, seed=0)
    for number, storage in enumerate(storages):
        own = made_up_record(number, space.design(("mbconv", "mbconv"), size=0))
        storage.add(0, proposals.frozen(own, -1.0), [own])
    late = Storage(tmp_path, 1, Objective().directions, {}, server.url, "cut")
    assert [each.number for _, each, _ in late.load()] == [0]
    for storage in (*storages, late):
        storage.close()


def test_two_searches_share_trials_over_a_restart_of_the_server(server, tmp_path, space_file, npz_file):
    folders = [tmp_path / "one", tmp_path / "two"]
    processes = [
        subprocess.Popen(
            [sys.executable, drivers.__file__, space_file, npz_file, folder, server.url, "8"],
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
            assert sum(record.status != "infeasible" for record in records) in (8, 9)
    runs = [Run.load(folder) for folder in folders]
    assert all(len(run.trials) >= 7 and run.best.key for run in runs)
    each = [(folder / "trained").read_text().splitlines() for folder in folders]
    begun = Counter(line for lines in each for line in lines if line.endswith(" 3"))  # confirming takes six epochs
    assert all(len(lines) >= 3 for lines in each) and any(line.endswith(" 3 3") for line in begun)
    # The study keeps one of two alike; what was begun tells whether the claims held, but for the moment of the restart.
    assert sum(begun.values()) - len(begun) <= 1, begun
    for path in tmp_path.rglob("*"):
        assert not path.is_file() or PASSWORD.encode() not in path.read_bytes(), path
    assert all(PASSWORD not in each for each in said)
    assert runs[0].config.storage == without_password(server.url)


@pytest.fixture(scope="module")
def mine(server, tmp_path_factory, space_file, npz_file) -> SearchConfig:
    """A search that ended, in a study on the server."""
    config = SearchConfig(
        space=str(space_file), data=str(npz_file), epochs=1, trials=2, threads=1, budget_ms=100, storage=server.url
    ).model_copy(update={"study": "mine", "baselines": "none", "out": tmp_path_factory.mktemp("mine") / "run"})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("hybridnas.timing.Timer", murders.make_timer)
        run_search(config)
    return config


@pytest.mark.parametrize(
    ("other", "what"),
    [
        ({"epochs": 2}, "training: 1 epochs, .*, not 2 epochs"),
        ({"batch_size": 16}, "training: "),
        ({"budget_ms": 5.0}, "budget: 100 ms, not 5 ms"),
        ({"budget_macs": 1e6}, "budget: 100 ms, not 100 ms and 1 MMAC"),
        ({"image_size": 24}, "image size: 16, not 24"),
        ({"seed": 1}, "seed: 0, not 1"),
        ({"train_images": 100}, "data: "),
        ({"objective": "accuracy"}, "objective"),
        ({"space": "tiny"}, "space: small .*, not tiny"),
        ({"target": "toaster"}, "device: "),
    ],
)
def test_a_study_of_another_search_is_refused(mine, tmp_path, monkeypatch, other, what):
    monkeypatch.setattr("hybridnas.timing.Timer", murders.make_timer)
    with pytest.raises(RunError, match=rf"the study 'mine' in postgresql\S+ is of a search with another {what}"):
        run_search(mine.model_copy(update={"out": tmp_path / "b", **other}))


def test_a_shared_study_is_gone_on_with_by_its_password_alone(server, mine, monkeypatch):
    monkeypatch.setattr("hybridnas.timing.Timer", murders.make_timer)
    again = run_search(SearchConfig(out=mine.out, trials=3, storage=server.url), resume=True)
    assert (again.trials.status == "complete").sum() == 3
    with pytest.raises(ConfigError, match=r"--storage postgresql\+psycopg://nas@127.0.0.1:\d+/postgres cannot be used"):
        run_search(SearchConfig(out=mine.out, trials=4), resume=True)
    for path in mine.out.rglob("*"):
        assert not path.is_file() or PASSWORD.encode() not in path.read_bytes(), path


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


def test_a_password_is_not_printed(tmp_path, space_file, npz_file):
    url = f"postgresql+psycopg://nas:{PASSWORD}@127.0.0.1:1/db"
    process = Warm("search", "--space", space_file, "--data", npz_file, "--storage", url, "--out", tmp_path / "run")
    out, err = process.communicate(timeout=SECONDS)
    assert process.returncode == 2 and PASSWORD not in out + err
    assert err.startswith("hybridnas: --storage postgresql+psycopg://nas@127.0.0.1:1/db cannot be used: ")
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    "error",
    [sharing.DBAPIError("SELECT", {}, Exception("gone")), StorageInternalError("gone")],
    ids=["its", "Optuna's"],
)
def test_a_server_that_stays_away_ends_the_search(monkeypatch, error):
    monkeypatch.setattr(sharing, "PATIENCE_S", 0.2)
    monkeypatch.setattr(sharing, "PAUSE_S", 0.01)
    url = read_url("postgresql+psycopg://nas:s3cret@127.0.0.1:1/db")

    def ask():
        raise error

    with pytest.raises(ConfigError, match=r"--storage \S+ cannot be used: (\(builtins.Exception\) )?gone"):
        sharing.patiently(url, ask)
