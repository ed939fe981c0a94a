"""Python's search for garbage, kept from where it finds none."""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def without_collecting() -> Iterator[None]:
    """What is made within has no cycles, or stays: looking for some takes a quarter of the time that making it does."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


@contextmanager
def importing() -> Iterator[None]:
    """Import large libraries within. What is alive after that is looked at no more, nor at the end of the process."""
    before = len(sys.modules)
    with without_collecting():
        yield
        if len(sys.modules) > before:
            gc.freeze()
