"""The file that keeps what parts cost: for later runs, for several processes, apart for each machine."""

import subprocess
import sys

import pytest

from hybridnas.cost import table as module
from hybridnas.cost.table import Count, Table, Time, Timed, code_digest
from hybridnas.errors import ConfigError
from hybridnas.files import CACHE_VARIABLE

COUNT = Count(10, 20, 30, 40, (False, True))
TIME = Time(0.1, 0.09, 0.11, 21)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "deep" / "cost.sqlite"


@pytest.fixture
def open_table(path):
    opened = []

    def open_():
        opened.append(Table(path))
        return opened[-1]

    yield open_
    for table in opened:
        table.close()


def test_what_was_kept_is_there_when_opened_again(open_table):
    table = open_table()
    table.add_count("part", COUNT)
    table.add_machine("here", {"cpu": "Abacus"})
    table.add_time("here", "part x1", TIME)
    table.add_network("here", "network", Timed({"part x1": 2.5}, 1.25))
    table.close()
    again = open_table()
    assert again.counts() == {"part": COUNT}
    assert again.times("here") == {"part x1": TIME}
    assert again.networks("here") == {"network": Timed({"part x1": 2.5}, 1.25)}
    assert list(again.contexts()) == [("here", {"cpu": "Abacus"}, 1, 1)]
    assert again.num_counts() == 1


def test_the_latest_figure_counts(open_table):
    table = open_table()
    for ratio in (0.1, 0.2):
        table.add_time("here", "part", Time(ratio, 0.0, 1.0, 1))
    assert [time.ratio for time in table.times("here").values()] == [0.2]


def test_contexts_do_not_mix(open_table):
    table = open_table()
    for context in ("here", "there"):
        table.add_machine(context, {})
        table.add_network(context, "network", Timed({}, 1.0))
    table.add_time("here", "part", TIME)
    assert table.times("there") == {}
    table.clear("here")
    assert [context for context, *_ in table.contexts()] == ["there"]
    assert (table.times("here"), table.networks("here")) == ({}, {})
    assert len(table.networks("there")) == 1


def test_everything_is_forgotten(open_table):
    table = open_table()
    table.add_count("part", COUNT)
    table.add_machine("here", {})
    table.add_time("here", "part", TIME)
    table.clear()
    assert (table.counts(), list(table.contexts()), table.times("here")) == ({}, [], {})


def test_counts_hold_for_a_version_of_the_code(open_table, monkeypatch):
    table = open_table()
    table.add_count("part", COUNT)
    monkeypatch.setattr(module, "code_digest", lambda: "later")
    assert table.counts() == {} and table.num_counts() == 0


def test_the_digest_is_of_code_and_versions(monkeypatch):
    now = code_digest()
    assert len(now) == 12 and int(now, 16) >= 0
    assert code_digest.__wrapped__() == now
    monkeypatch.setattr(module, "version", lambda name: "0.0")
    assert code_digest.__wrapped__() != now


@pytest.mark.parametrize("name", ["blocks/window.py", "cost/macs.py", "cost/reference.py"])
def test_another_line_of_code_is_another_digest(monkeypatch, tmp_path, name):
    for file in ("blocks/window.py", "blocks/levit.py", "cost/macs.py", "cost/reference.py", "cost/table.py"):
        (tmp_path / file).parent.mkdir(exist_ok=True)
        (tmp_path / file).write_text("")
    monkeypatch.setattr(module, "__file__", str(tmp_path / "cost" / "table.py"))
    before = code_digest.__wrapped__()
    (tmp_path / name).write_text("# else")
    assert code_digest.__wrapped__() != before


def test_a_context_by_its_beginning(open_table):
    table = open_table()
    with pytest.raises(ConfigError, match="No context begins with 'ab'; the table .* has none"):
        table.context("ab")
    for context in ("abc", "abd", "b"):
        table.add_machine(context, {})
    assert (table.context("abc"), table.context("b")) == ("abc", "b")
    with pytest.raises(ConfigError, match="2 contexts begin with 'ab': abc, abd"):
        table.context("ab")
    with pytest.raises(ConfigError, match="has abc, abd, b"):
        table.context("z")


WRITER = """
import sys
from pathlib import Path
from hybridnas.cost.table import Table, Time
name = sys.argv[2]
print("ready", flush=True)
sys.stdin.readline()
table = Table(Path(sys.argv[1]))
for i in range(100):
    table.add_time("here", f"{name} {i}", Time(i, 0.0, 1.0, 1))
    table.add_time("here", "shared", Time(i, 0.0, 1.0, 1))
print(len(table.times("here")))
table.close()
"""


def test_several_processes_write_at_once(path, open_table):
    """They also make the file at once."""
    names = "abcd"
    writers = [
        subprocess.Popen(
            [sys.executable, "-c", WRITER, path, name], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for name in names
    ]
    for writer in writers:
        assert writer.stdout.readline() == "ready\n"
    for writer in writers:
        writer.stdin.write("\n")
        writer.stdin.flush()
    for writer in writers:
        out, _ = writer.communicate()
        assert writer.returncode == 0 and int(out) > 100
    assert open_table().times("here").keys() == {"shared"} | {f"{name} {i}" for name in names for i in range(100)}


def test_a_file_that_is_no_table(path):
    path.parent.mkdir()
    path.write_text("Dear diary, " * 100)
    with pytest.raises(ConfigError) as caught:
        Table(path)
    sentence = str(caught.value)
    assert str(path) in sentence and "remove it" in sentence and CACHE_VARIABLE in sentence
    assert "\n" not in sentence


def test_a_damaged_file(path, open_table):
    table = open_table()
    for i in range(2000):
        table.add_time("here", f"part {i}", TIME)
    table.close()
    content = bytearray(path.read_bytes())
    content[8192:] = b"\xff" * (len(content) - 8192)
    path.write_bytes(content)
    with pytest.raises(ConfigError, match="remove it"):
        table = open_table()
        table.times("here")


def test_a_table_of_another_shape(path, open_table):
    import sqlite3

    path.parent.mkdir()
    file = sqlite3.connect(path)
    file.execute("CREATE TABLE times (colour TEXT)")
    file.close()
    with pytest.raises(ConfigError, match="remove it"):
        open_table().add_time("here", "part", TIME)


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=f"{CACHE_VARIABLE} to a folder that can be written"):
        Table(tmp_path / "file" / "cost.sqlite")


def test_a_path_that_cannot_be_written(tmp_path):
    with pytest.raises(ConfigError, match=CACHE_VARIABLE):
        Table(tmp_path)  # a folder stands where the file should
