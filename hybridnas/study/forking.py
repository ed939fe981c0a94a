"""Where worker processes come from: on Linux forked off a server, which can import while the search still begins."""

from __future__ import annotations

import multiprocessing
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import forkserver, resource_tracker
from multiprocessing.context import ForkServerContext, SpawnContext

#: On Linux a worker is forked off a process that has imported what workers need and done nothing else: that takes 0.1 s
#: where importing torch and timm takes six, and shares the 400 MB that these are. Other systems have libraries that do
#: not survive it.
CONTEXT: ForkServerContext | SpawnContext
if sys.platform == "linux":
    CONTEXT = multiprocessing.get_context("forkserver")
else:
    CONTEXT = multiprocessing.get_context("spawn")
PRELOADED = "hybridnas.preloaded"


def begin() -> None:
    """Let the server import, beside this process, what workers need; without a word where there is none."""
    CONTEXT.set_forkserver_preload([PRELOADED])
    if sys.platform == "linux":
        with interrupts_held():
            forkserver.ensure_running()


@contextmanager
def interrupts_held() -> Iterator[None]:
    """Ctrl-C goes to all processes of a terminal, and the parent alone is to answer: a mask is inherited."""
    if sys.platform == "win32":
        yield
        return
    resource_tracker.ensure_running()  # or starting a process starts it, which lets them through
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
