"""What becomes of errors that a command meets."""

from __future__ import annotations

import errno
import os

import pytest
import typer

from hybridnas.cli import exit_code


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
