"""What becomes of errors that a command meets."""

from __future__ import annotations

import errno
import gc
import os
import subprocess
import sys

import pytest
import typer

from hybridnas.__main__ import app as roof
from hybridnas.cli import exit_code
from hybridnas.collecting import importing


def raising(error: Exception) -> typer.Typer:
    app = typer.Typer()

    @app.command()
    def command() -> None:
        raise error

    return app


@pytest.mark.parametrize("number", [errno.EACCES, errno.EPERM, errno.EROFS, errno.EEXIST, errno.ENOTDIR, errno.EISDIR])
def test_a_file_that_is_not_to_be_used_is_named(number: int, capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code(raising(OSError(number, os.strerror(number), "/a/file")), []) == 2
    assert capsys.readouterr().err == f"hybridnas: /a/file cannot be used: {os.strerror(number)}.\n"


@pytest.mark.parametrize(
    "error", [OSError("no number"), OSError(errno.EIO, "x", "/a"), FileNotFoundError(2, "x", "/a")]
)
def test_a_defect_of_ours_keeps_its_traceback(error: Exception) -> None:
    with pytest.raises(OSError, match="no number|x"):
        exit_code(raising(error), [])


COMMANDS = (
    "search",
    "dashboard",
    "profile",
    "export",
    "predict",
    "recommend",
    "replay",
    "report",
    "table",
    "train",
    "trust",
)


FALLS_INTO = {
    "finalizer": """
class Caught:
    def __del__(self):
        os.kill(os.getpid(), signal.SIGTERM)
        len("the next instruction")

begin = Caught
""",
    "callback of C": """
@ctypes.CFUNCTYPE(None)
def begin():
    os.kill(os.getpid(), signal.SIGTERM)
    len("the next instruction")
""",
}


@pytest.mark.parametrize("there", FALLS_INTO)
def test_a_ctrl_c_that_python_cannot_raise_is_not_lost(there: str) -> None:
    code = f"""
import ctypes, os, signal, time, typer
from hybridnas.cli import run
{FALLS_INTO[there]}
app = typer.Typer()

@app.command()
def command():
    begin()
    time.sleep(60)
    print("slept")

run(app, [])
"""
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=50)
    assert (ended.returncode, ended.stdout) == (130, ""), ended.stderr
    assert ended.stderr == "hybridnas: stopped; what finished is kept.\n"


def test_garbage_is_not_looked_for_while_libraries_are_imported() -> None:
    frozen = gc.get_freeze_count()
    try:
        with importing():
            assert not gc.isenabled()
        assert gc.isenabled() and gc.get_freeze_count() == frozen  # nothing was new
        with importing():
            made = [[i] for i in range(1000)]
            sys.modules["new"] = sys
        assert gc.isenabled() and gc.get_freeze_count() >= frozen + len(made)
        with pytest.raises(ImportError), importing():
            raise ImportError
        assert gc.isenabled()
        gc.disable()
        with importing():
            pass
        assert not gc.isenabled()
    finally:
        sys.modules.pop("new", None)
        gc.unfreeze()
        gc.enable()


def test_garbage_is_not_looked_for_at_the_end_of_a_command() -> None:
    code = """
import atexit, gc, typer
from hybridnas.cli import run
app = typer.Typer()
app.command()(lambda: None)
atexit.register(lambda: print(gc.get_freeze_count() > 0))
run(app, [])
"""
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "True\n"


def test_all_commands_have_one_roof() -> None:
    """As the explorer and model cards name them."""
    help_of = subprocess.run([sys.executable, "-m", "hybridnas", "--help"], capture_output=True, text=True, check=True)
    assert all(f" {name} " in help_of.stdout for name in COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_under_it_has_its_own_help(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code(roof, [name, "--help"]) == 0
    assert f"{name} [OPTIONS]" in capsys.readouterr().out
