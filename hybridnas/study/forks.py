"""How worker processes begin: forked off one that has imported what they need and done nothing else."""

from __future__ import annotations

import multiprocessing
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.context import ForkServerContext, SpawnContext

#: A fork takes 0.1 s where importing torch and timm takes six, and shares the 400 MB that these are. Other systems than
#: Linux have libraries that do not survive it.
CONTEXT: ForkServerContext | SpawnContext
if sys.platform == "linux":
    CONTEXT = multiprocessing.get_context("forkserver")
else:
    CONTEXT = multiprocessing.get_context("spawn")

#: What they need.
PRELOADED = "hybridnas.working"


def prepare() -> None:
    """Let that process begin to import; not while anything is timed, as that is work."""
    if sys.platform == "linux":
        from multiprocessing import forkserver

        CONTEXT.set_forkserver_preload([PRELOADED])
        with interrupts_held():
            forkserver.ensure_running()


@contextmanager
def interrupts_held() -> Iterator[None]:
    """Ctrl-C goes to all processes of a terminal, and the parent alone is to answer: a mask is inherited."""
    if sys.platform == "win32":
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
