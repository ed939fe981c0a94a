import os
import stat

import pytest

from hybridnas.files import CACHE_VARIABLE, UNFINISHED, cache_folder, remove_unfinished, write_atomic


class Killed(BaseException):
    """Stands for Ctrl-C, which is no Exception."""


def names(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize(
    ("write", "content"),
    [
        ("grün\n", "grün\n".encode()),
        (b"\x00\xff", b"\x00\xff"),
        (lambda path: path.write_bytes(b"by a function"), b"by a function"),
    ],
    ids=["text", "bytes", "function"],
)
def test_writes_what_it_is_given_and_nothing_else(tmp_path, write, content):
    write_atomic(tmp_path / "a.json", write)
    assert (tmp_path / "a.json").read_bytes() == content
    assert names(tmp_path) == ["a.json"]


def test_replaces_the_old_file(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old, and longer than the new one")
    write_atomic(path, "new")
    assert path.read_text() == "new"
    assert names(tmp_path) == ["a.txt"]


@pytest.mark.parametrize("error", [OSError, ValueError, KeyboardInterrupt, Killed])
def test_a_writer_that_fails_leaves_the_old_file(tmp_path, error):
    path = tmp_path / "a.txt"
    path.write_text("old")

    def half(temporary):
        temporary.write_text("half of the n")
        raise error

    with pytest.raises(error):
        write_atomic(path, half)
    assert path.read_text() == "old"
    assert names(tmp_path) == ["a.txt"]


def test_a_writer_that_fails_makes_no_file(tmp_path):
    def fail(temporary):
        temporary.write_text("half")
        raise OSError

    with pytest.raises(OSError):
        write_atomic(tmp_path / "a.txt", fail)
    assert names(tmp_path) == []


def test_readers_see_the_old_file_until_the_new_one_is_whole(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")

    def write(temporary):
        temporary.write_text("new")
        assert path.read_text() == "old"

    write_atomic(path, write)
    assert path.read_text() == "new"


def test_the_temporary_file_lies_beside_and_keeps_the_suffix(tmp_path):
    # A rename is atomic within one file system only; np.savez and matplotlib go by the suffix.
    seen = []
    write_atomic(tmp_path / "plot.png", lambda temporary: (seen.append(temporary), temporary.write_text("x")))
    assert seen[0].parent == tmp_path
    assert seen[0].suffix == ".png"


def test_makes_the_folder(tmp_path):
    write_atomic(tmp_path / "b" / "c" / "a.txt", "x")
    assert (tmp_path / "b" / "c" / "a.txt").read_text() == "x"


def test_the_file_gets_the_mode_that_the_umask_gives(tmp_path):
    write_atomic(tmp_path / "a.txt", "x")
    (tmp_path / "b.txt").write_text("x")
    modes = [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("a.txt", "b.txt")]
    assert modes[0] == modes[1]


def test_while_it_is_being_written_a_file_is_its_owners_alone(tmp_path, monkeypatch):
    before = os.umask(0)
    try:
        modes = []

        def write(temporary):
            temporary.write_text("x")
            modes.append(stat.S_IMODE(temporary.stat().st_mode))

        write_atomic(tmp_path / "a.txt", write)
    finally:
        os.umask(before)
    assert modes == [0o600]


def test_where_the_cache_lies(monkeypatch, tmp_path):
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path))
    assert cache_folder() == tmp_path
    monkeypatch.delenv(CACHE_VARIABLE)
    assert "hybridnas" in str(cache_folder())


def test_what_was_being_written_is_removed_and_what_is_the_users_stays(tmp_path):
    (tmp_path / "below").mkdir()
    for name in (".gitignore", "below/.keep", "kept.txt"):
        (tmp_path / name).write_text("")
    seen = []

    def write(temporary):
        temporary.write_text("half")
        remove_unfinished(tmp_path)
        seen.append(temporary.name)
        temporary.write_text("whole")

    write_atomic(tmp_path / "below" / "a.txt", write)
    assert seen[0].startswith(UNFINISHED) and names(tmp_path / "below") == [".keep", "a.txt"]
    assert names(tmp_path) == [".gitignore", "below", "kept.txt"]
