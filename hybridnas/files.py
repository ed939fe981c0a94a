"""Files: the cache folder, and writing so that a kill leaves the old file or the new one, never half of one."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from platformdirs import user_cache_path

from hybridnas.errors import DiskFullError, HybridNasError

#: Bytes; a disk with less has none.
NO_ROOM = 1 << 16

#: What a file is called while it is being written.
UNFINISHED = ".hybridnas-"

#: Names another folder than the user's cache folder.
CACHE_VARIABLE = "HYBRIDNAS_CACHE"


def write_atomic(path: Path, write: str | bytes | Callable[[Path], object]) -> None:
    """Write `path` by renaming a finished temporary file beside it over it.

    Args:
        path: The file; its folder is made if needed.
        write: The content, or a function that writes a file at the path that it is given.

    Raises:
        DiskFullError: there is no room for it; the old file is as it was.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f"{UNFINISHED}{path.stem}.", suffix=path.suffix)
    os.close(handle)
    temporary = Path(name)
    try:
        with full_disk_said(path.parent):
            if isinstance(write, str):
                temporary.write_text(write, encoding="utf-8")
            elif isinstance(write, bytes):
                temporary.write_bytes(write)
            else:
                write(temporary)
            with temporary.open("rb") as file:
                os.fsync(file.fileno())
        # mkstemp makes the file private; the finished one gets what the umask gives any file.
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def append(path: Path, text: str) -> None:
    """Add to a file, in one piece.

    Raises:
        DiskFullError: there is no room for it; the file is as it was.
    """
    content = text.encode()
    with full_disk_said(path.parent), path.open("ab", buffering=0) as file:
        size = file.tell()
        try:
            if file.write(content) < len(content):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
            os.fsync(file.fileno())
        except OSError:
            file.truncate(size)
            raise


def remove_unfinished(folder: Path) -> None:
    """Remove what `write_atomic` was writing in a folder, and below, when its process was killed."""
    for path in folder.rglob(f"{UNFINISHED}*"):
        if path.is_file():
            path.unlink(missing_ok=True)


@contextmanager
def full_disk_said(folder: Path) -> Iterator[None]:
    """Where writing into a folder fails because its disk is full, a DiskFullError."""
    try:
        yield
    except Exception as error:
        # torch.save says nothing of the reason, but leaves what it wrote.
        if not isinstance(error, HybridNasError) and (is_full_disk(error) or shutil.disk_usage(folder).free < NO_ROOM):
            raise DiskFullError(f"No room is left on the disk of {folder}; what finished is kept.") from None
        raise


def is_full_disk(error: BaseException) -> bool:
    """Whether an error, or what caused it, says that a disk or a quota is full: Python's, SQLite's or safetensors'."""
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return True
    if any(words in str(error) for words in ("disk is full", "No space left on device")):
        return True
    return error.__cause__ is not None and is_full_disk(error.__cause__)


def shipped_folder(name: str, in_checkout: str) -> Path:
    """A folder of data that comes with the package: inside it when installed, in a checkout beside it."""
    package = Path(__file__).parent
    inside = package / name
    return inside if inside.is_dir() else package.parent / in_checkout


def cache_folder() -> Path:
    """What is kept from one run for the next: the user's cache folder, or the one that HYBRIDNAS_CACHE names."""
    folder = os.environ.get(CACHE_VARIABLE)
    return Path(folder) if folder else user_cache_path("hybridnas")
