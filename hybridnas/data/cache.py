"""Decoded images on disk, mapped into memory: decoded once, shared by all processes that train on them."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np

from hybridnas.data.dataset import Images, Indices
from hybridnas.errors import DataError
from hybridnas.files import cache_folder, write_atomic

#: Bytes of decoded images that are kept; the longest unused go first.
LIMIT = 20e9
#: Images that are copied at once.
AT_ONCE = 1024
#: What nobody wrote to for so long was being decoded by a process that was killed.
ABANDONED_S = 86_400

#: Fills an array (N, C, H, W) and returns the positions that it could not fill.
Fill = Callable[[Images], list[int]]


def cached(key: str, shape: tuple[int, ...], fill: Fill) -> tuple[Images, Indices]:
    """The images that are kept under `key`, mapped from disk, and the positions that they fill; made if need be.

    Args:
        key: Of all that the images follow from.
        shape: (N, C, H, W), counting the positions that cannot be filled.
        fill: What makes them.

    Raises:
        DataError: they cannot be written.
    """
    folder = cache_folder() / "images"
    path, unfilled = folder / f"{key}.npy", folder / f"{key}.json"
    try:
        try:
            images, filled = _read(path, unfilled, shape)
        except (FileNotFoundError, ValueError, EOFError, IndexError):  # not there yet, or damaged
            write_atomic(path, lambda temporary: write_atomic(unfilled, json.dumps(_write(temporary, shape, fill))))
            _forget_longest_unused(folder, path)
            images, filled = _read(path, unfilled, shape)
        os.utime(path)
    except OSError as error:
        raise DataError(f"Decoded images cannot be kept in {folder}: {error}.") from None
    return images, filled


def _read(path: Path, unfilled: Path, shape: tuple[int, ...]) -> tuple[Images, Indices]:
    # Copy on write: torch wants memory that it could write to, and nobody does.
    images: Images = np.load(path, mmap_mode="c", allow_pickle=False)
    filled = np.delete(np.arange(shape[0]), np.array(json.loads(unfilled.read_bytes()), np.intp))
    if images.dtype != np.uint8 or images.shape != (len(filled), *shape[1:]):
        raise ValueError("something else")
    return images, filled


def _write(path: Path, shape: tuple[int, ...], fill: Fill) -> list[int]:
    whole = np.lib.format.open_memmap(path, mode="w+", dtype=np.uint8, shape=shape)
    if hasattr(os, "posix_fallocate"):  # a full disk is an error now, not a signal while the map is written
        with path.open("r+b") as file:
            os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
    unfilled = fill(whole)
    whole.flush()
    if unfilled:
        without = path.with_suffix(".part")  # never over a file that is mapped
        filled = np.delete(np.arange(len(whole)), unfilled)
        head = np.lib.format.header_data_from_array_1_0(whole) | {"shape": (len(filled), *shape[1:])}
        with without.open("wb") as file:
            np.lib.format.write_array_header_1_0(file, head)
            for start in range(0, len(filled), AT_ONCE):  # the whole may be larger than the memory
                file.write(whole[filled[start : start + AT_ONCE]].tobytes())
        without.replace(path)
    return unfilled


def _forget_longest_unused(folder: Path, newest: Path) -> None:
    for path in folder.glob(".*"):  # those that begin with a dot are being written
        with suppress(FileNotFoundError):
            if time.time() - path.stat().st_mtime > ABANDONED_S:
                path.unlink()
    files: list[tuple[float, int, Path]] = []
    for path in folder.glob("[!.]*.npy"):
        with suppress(FileNotFoundError):  # another process forgot it
            about = path.stat()
            files.append((about.st_mtime, about.st_size, path))
    excess = sum(size for _, size, _ in files) - LIMIT
    for _, size, path in sorted(files):
        if excess <= 0 or path == newest:
            continue
        excess -= size
        path.unlink(missing_ok=True)
        path.with_suffix(".json").unlink(missing_ok=True)
