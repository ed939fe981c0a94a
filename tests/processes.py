"""Commands in processes of their own, which tests watch, stop and starve."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

#: How long a test waits for one.
SECONDS = 120


def start(command: str, *flags: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", f"hybridnas.{command}", *map(str, flags)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        # A test run in the background of a shell has SIGINT ignored, and its children would inherit that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


def wait_for_rows(table: Path, count: int) -> None:
    """Until a CSV with a header has so many."""
    end = time.monotonic() + SECONDS
    while time.monotonic() < end:
        if table.is_file() and len(table.read_text().splitlines()) > count:
            return
        time.sleep(0.02)
    raise TimeoutError(f"{table} did not reach {count} rows")
