"""Locks across processes: a device that many may train on at once or one may time alone, and a run folder."""

from __future__ import annotations

import os
import sys
import tempfile
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hybridnas.errors import RunError

if sys.platform != "win32":
    import fcntl


@contextmanager
def owned(folder: Path) -> Iterator[None]:
    """One process at a time in a run folder; the lock is on the folder itself and ends with its process.

    Raises:
        RunError: another process is at it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if sys.platform == "win32":
        yield
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RunError(f"{folder} is in use: another process is searching or training there.") from None
        yield
    finally:
        os.close(handle)


class DeviceLock:
    """The lock of one device of this machine, for all processes of this user: of a run, and of other runs.

    Training takes it a step at a time, so that a timer waits for a step and not for a training.
    The locks are flock's: a process that dies leaves none behind. Windows has none, and nothing is locked there.

    Args:
        device: 'cpu', 'cuda:0', ...
        folder: Where the lock files lie; None is the machine's folder for temporary files.

    Raises:
        RunError: the folder is another user's.
    """

    def __init__(self, device: str, folder: Path | None = None) -> None:
        if sys.platform != "win32":
            folder = folder or Path(tempfile.gettempdir()) / f"hybridnas-{os.getuid()}"
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            if folder.stat().st_uid != os.getuid():  # anyone may write where temporary files lie
                raise RunError(f"{folder} belongs to another user: remove it, or name another folder by TMPDIR.")
            name = "cuda-0" if device == "cuda" else device.replace(":", "-")
            self._device, self._gate = (
                os.open(folder / f"{name}.{kind}.lock", os.O_RDWR | os.O_CREAT, 0o600) for kind in ("device", "gate")
            )
            weakref.finalize(self, _close, self._device, self._gate)  # also while the interpreter ends

    @contextmanager
    def shared(self) -> Iterator[None]:
        """For who trains: beside others who do, never while one times. Who waits to time goes first."""
        if sys.platform == "win32":
            yield
            return
        fcntl.flock(self._gate, fcntl.LOCK_SH)  # shut while a timer waits: else trainers could hold it off for ever
        try:
            fcntl.flock(self._device, fcntl.LOCK_SH)
        finally:
            fcntl.flock(self._gate, fcntl.LOCK_UN)
        try:
            yield
        finally:
            fcntl.flock(self._device, fcntl.LOCK_UN)

    @contextmanager
    def alone(self) -> Iterator[None]:
        """For who times: while nobody trains and nobody else times."""
        if sys.platform == "win32":
            yield
            return
        fcntl.flock(self._gate, fcntl.LOCK_EX)
        try:
            fcntl.flock(self._device, fcntl.LOCK_EX)
            yield
        finally:
            fcntl.flock(self._device, fcntl.LOCK_UN)
            fcntl.flock(self._gate, fcntl.LOCK_UN)


def _close(*handles: int) -> None:
    for handle in handles:
        os.close(handle)
