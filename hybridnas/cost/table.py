"""The table: what each part costs, counted or timed once, kept in the user's cache folder for every later search.

Counts hold for a version of the code. Times are multiples of the reference network's and hold for that and for one
machine, runtime, precision, batch size and number of threads: a fingerprint of all these is part of their key.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

from hybridnas.errors import ConfigError
from hybridnas.files import CACHE_VARIABLE, cache_folder, full_disk_said

FILE = "cost.sqlite"
#: How long one process waits for another that writes.
WAIT_S = 60.0

#: Among the times, under this key: what calling an empty part costs.
CALL = "call"

SCHEMA = """
CREATE TABLE IF NOT EXISTS counts (code TEXT, part TEXT, count TEXT, PRIMARY KEY (code, part)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS machines (context TEXT PRIMARY KEY, machine TEXT) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS times (context TEXT, part TEXT, time TEXT, PRIMARY KEY (context, part)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS refusals (context TEXT, part TEXT, reason TEXT, PRIMARY KEY (context, part)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS networks (context TEXT, network TEXT, parts TEXT, ratio REAL, PRIMARY KEY (context, network))
    WITHOUT ROWID;
"""
OF_CONTEXTS = ("machines", "times", "refusals", "networks")


@dataclass(frozen=True)
class Count:
    """Multiply-adds and parameters of a part, and which layout comes out of it.

    Attributes:
        macs: Of the part, or of a body of one block.
        params: Likewise.
        more_macs: Of each further block.
        more_params: Likewise.
        channels_last: Whether channels come out last where they went in first, and where they went in last.
    """

    macs: int
    params: int
    more_macs: int
    more_params: int
    channels_last: tuple[bool, bool]


@dataclass(frozen=True)
class Time:
    """A part's time over the reference network's, with its 95 % interval."""

    ratio: float
    low: float
    high: float
    num_samples: int


@dataclass(frozen=True)
class Timed:
    """A whole network that was timed: how often each timed part is in it, and its time over the reference's."""

    parts: dict[str, float]
    ratio: float


class Table:
    """The file, with what this process needs of it in memory. Several processes may use one.

    Args:
        path: None is `cost.sqlite` in the user's cache folder, or in the folder that HYBRIDNAS_CACHE names.

    Raises:
        ConfigError: the file cannot be opened, or is no table.
    """

    def __init__(self, path: Path | None = None) -> None:
        self.path = path or cache_folder() / FILE
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise self._error(error) from None
        with self._explained():
            self._file = sqlite3.connect(self.path, timeout=WAIT_S, isolation_level=None)
            self._write_ahead()
            self._file.execute("PRAGMA synchronous=NORMAL")
            self._file.executescript(SCHEMA)

    def close(self) -> None:
        """Close the file; everything is on disk already."""
        self._file.close()

    def counts(self) -> dict[str, Count]:
        """All counts of this version of the code, by part."""
        rows = self._rows("SELECT part, count FROM counts WHERE code = ?", code_digest())
        return {part: _count(count) for part, count in rows}

    def add_count(self, part: str, count: Count) -> None:
        """Keep a part's counts."""
        self._write("INSERT OR REPLACE INTO counts VALUES (?, ?, ?)", code_digest(), part, json.dumps(asdict(count)))

    def times(self, context: str) -> dict[str, Time]:
        """All times of a context, by timed part."""
        rows = self._rows("SELECT part, time FROM times WHERE context = ?", context)
        return {part: Time(**json.loads(time)) for part, time in rows}

    def add_time(self, context: str, part: str, time: Time) -> None:
        """Keep a part's time."""
        self._write("INSERT OR REPLACE INTO times VALUES (?, ?, ?)", context, part, json.dumps(asdict(time)))

    def refusals(self, context: str) -> dict[str, str]:
        """Why parts could not be run in a context, by timed part."""
        return dict(self._rows("SELECT part, reason FROM refusals WHERE context = ?", context))

    def add_refusal(self, context: str, part: str, reason: str) -> None:
        """Keep that a part cannot be run, which a frozen table must tell from one that was never tried."""
        self._write("INSERT OR REPLACE INTO refusals VALUES (?, ?, ?)", context, part, reason)

    def networks(self, context: str) -> dict[str, Timed]:
        """All networks that were timed in a context, by key."""
        rows = self._rows("SELECT network, parts, ratio FROM networks WHERE context = ?", context)
        return {network: Timed(json.loads(parts), ratio) for network, parts, ratio in rows}

    def add_network(self, context: str, network: str, timed: Timed) -> None:
        """Keep the time of a whole network."""
        self._write(
            "INSERT OR REPLACE INTO networks VALUES (?, ?, ?, ?)",
            context,
            network,
            json.dumps(timed.parts),
            timed.ratio,
        )

    def add_machine(self, context: str, machine: dict[str, Any]) -> None:
        """Say what a context stands for."""
        self._write("INSERT OR REPLACE INTO machines VALUES (?, ?)", context, json.dumps(machine))

    def contexts(self) -> Iterator[tuple[str, dict[str, Any], int, int]]:
        """Every context: its fingerprint, what it stands for, and how many parts and networks were timed in it."""
        for context, machine in self._rows("SELECT context, machine FROM machines ORDER BY context"):
            ((num_parts,),) = self._rows("SELECT COUNT(*) FROM times WHERE context = ? AND part != ?", context, CALL)
            ((num_networks,),) = self._rows("SELECT COUNT(*) FROM networks WHERE context = ?", context)
            yield context, json.loads(machine), num_parts, num_networks

    def context(self, beginning: str) -> str:
        """The one context that begins so.

        Raises:
            ConfigError: there is none, or more than one.
        """
        every = [str(context) for (context,) in self._rows("SELECT context FROM machines ORDER BY context")]
        found = [context for context in every if context.startswith(beginning)]
        if len(found) == 1:
            return found[0]
        if found:
            raise ConfigError(f"{len(found)} contexts begin with {beginning!r}: {', '.join(found)}; give more of one.")
        raise ConfigError(
            f"No context begins with {beginning!r}; the table {self.path} has {', '.join(every) or 'none'}."
        )

    def reference_ms(self, context: str) -> float | None:
        """The reference network's milliseconds that were measured last in a context; None where nothing was."""
        rows = self._rows("SELECT machine FROM machines WHERE context = ?", context)
        return float(json.loads(rows[0][0])["reference_ms"]) if rows else None

    def copy(self, path: Path, contexts: Sequence[str]) -> None:
        """Write a table that has the counts, and the times of some contexts, into a new file."""
        with self._explained(), closing(sqlite3.connect(path, isolation_level=None)) as file:
            self._file.backup(file)
            marks = ", ".join("?" for _ in contexts)
            for name in OF_CONTEXTS:
                file.execute(f"DELETE FROM {name} WHERE context NOT IN ({marks})", contexts)
            file.execute("PRAGMA journal_mode=DELETE")
            file.execute("VACUUM")

    def num_counts(self) -> int:
        """Parts whose counts hold for this version of the code."""
        return int(self._rows("SELECT COUNT(*) FROM counts WHERE code = ?", code_digest())[0][0])

    def clear(self, context: str | None = None) -> None:
        """Forget the times of one context, or everything."""
        if context is not None:
            for name in OF_CONTEXTS:
                self._write(f"DELETE FROM {name} WHERE context = ?", context)
            return
        for name in ("counts", *OF_CONTEXTS):
            self._write(f"DELETE FROM {name}")

    def _write_ahead(self) -> None:
        """Let readers and a writer not wait for each other. Of several that ask at once, SQLite turns some away."""
        end = time.monotonic() + WAIT_S
        while True:
            try:
                self._file.execute("PRAGMA journal_mode=WAL")
                return
            except sqlite3.OperationalError as error:
                if "locked" not in str(error) or time.monotonic() > end:
                    raise
                time.sleep(0.01)

    def _write(self, statement: str, *values: object) -> None:
        with self._explained():
            self._file.execute(statement, values)

    def _rows(self, statement: str, *values: object) -> list[Any]:
        with self._explained():
            return self._file.execute(statement, values).fetchall()

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            with full_disk_said(self.path.parent):
                yield
        except sqlite3.Error as error:
            raise self._error(error) from None

    def _error(self, error: Exception) -> ConfigError:
        return ConfigError(
            f"The table {self.path} cannot be used: {error}; remove it, or set {CACHE_VARIABLE} to a folder that can "
            "be written."
        )


@lru_cache(1)
def code_digest() -> str:
    """12 hexadecimal digits of what the figures of a part follow from besides the machine.

    The code that parts are made of, how they are counted, the reference that they are timed against, and the versions
    of the packages below.
    """
    here = Path(__file__).parent
    digest = hashlib.sha256(" ".join(version(name) for name in ("torch", "timm", "fvcore")).encode())
    for path in (*sorted(here.parent.glob("blocks/*.py")), here / "macs.py", here / "reference.py"):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:12]


def _count(text: str) -> Count:
    fields = json.loads(text)
    return Count(**{**fields, "channels_last": tuple(fields["channels_last"])})
