"""A study that several searches share, on one PostgreSQL server: each claims what it is about to do.

A claim is an advisory lock of the server's: it ends with the search that holds it, however that ends.
"""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any, TypeVar

from sqlalchemy import URL, Connection, NullPool, create_engine, make_url, text
from sqlalchemy.exc import ArgumentError, DBAPIError, SQLAlchemyError

from hybridnas.errors import ConfigError, first_clause

#: How long a server that went away is waited for, and the seconds between two tries.
PATIENCE_S, PAUSE_S = 60.0, 0.5
#: How often a search looks whether the server is there, and how long all wait after it came back.
LOOK_S, GRACE_S = 1.0, 4.0

#: Of libpq: when a server, or the network to it, counts as gone that does not say so. Seconds, and of the last
#: milliseconds.
PROMPT = {
    "connect_timeout": 5,
    "keepalives": 1,
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 2,
    "tcp_user_timeout": 20_000,
}

#: Seconds since the server was started.
AGE_S = "SELECT extract(epoch FROM clock_timestamp() - pg_postmaster_start_time())"
#: A function of the server's that changes nothing.
NOTHING = "abs"

R = TypeVar("R")


def read_url(storage: str) -> URL:
    """The address of a server.

    Raises:
        ConfigError: it is none of a PostgreSQL server, or the driver is not installed.
    """
    try:
        url = make_url(storage)
    except ArgumentError:
        raise ConfigError("--storage must be such as postgresql+psycopg://USER:PASSWORD@HOST/DATABASE.") from None
    if url.drivername not in ("postgresql+psycopg", "postgresql"):
        raise ConfigError(
            f"--storage: {url.drivername} is not supported; give postgresql+psycopg://USER:PASSWORD@HOST/DATABASE."
        )
    url = url.set(drivername="postgresql+psycopg")
    try:
        import psycopg  # noqa: F401
    except ImportError:
        raise ConfigError("--storage needs a driver: pip install 'hybridnas[postgres]'.") from None
    return url


def promptly(url: URL) -> dict[str, Any]:
    """What connections to a server are made with, beside what its address says itself."""
    return {name: value for name, value in PROMPT.items() if name not in url.query}


def check_server(storage: str) -> None:
    """Connect once, before a run begins.

    Raises:
        ConfigError: the address is none of a PostgreSQL server, or it does not answer.
    """
    url = read_url(storage)
    try:
        create_engine(url, poolclass=NullPool, connect_args=promptly(url)).connect().close()
    except SQLAlchemyError as error:
        raise unreachable(url, error) from None


def without_password(storage: str | URL) -> str:
    """An address as it may be shown and kept."""
    url = make_url(storage)._replace(password=None).difference_update_query(["password", "sslpassword"])
    return url.render_as_string(hide_password=False)


def patiently(url: URL, do: Callable[[], R]) -> R:
    """Do something on a server; where it cannot be reached, again, for a minute.

    Raises:
        ConfigError: it stayed away.
    """
    from optuna.exceptions import StorageInternalError

    end = time.monotonic() + PATIENCE_S
    while True:
        try:
            return do()
        except (DBAPIError, StorageInternalError) as error:
            if time.monotonic() > end:
                raise unreachable(url, error) from None
            time.sleep(PAUSE_S)


def unreachable(url: URL, error: Exception) -> ConfigError:
    """What is said of a server that does not answer."""
    return ConfigError(f"--storage {without_password(url)} cannot be used: {first_clause(error)}.")


class Claims:
    """What this search alone may do, of all that share a study.

    A server that is started anew has forgotten all claims. So each search looks every second whether it is still
    there, and takes its claims again; and none claims anything new until all have had the time to.

    Args:
        url: Of the server.
        study: Its name.

    Raises:
        ConfigError: the server cannot be reached.
    """

    def __init__(self, url: URL, study: str) -> None:
        self.url = url
        self.study = study
        self._engine = create_engine(url, isolation_level="AUTOCOMMIT", poolclass=NullPool, connect_args=promptly(url))
        self._held: set[str] = set()
        self._one_at_a_time = threading.Lock()
        try:
            self._connection: Connection | None = self._engine.connect()
            age = float(self._connection.execute(text(AGE_S)).scalar_one())
            self._patient_until = time.monotonic() + GRACE_S - max(0.0, age)  # its clock may have stepped back
        except SQLAlchemyError as error:
            raise unreachable(url, error) from None
        self._closed = threading.Event()
        self._watch = threading.Thread(target=self._keep, daemon=True)
        self._watch.start()

    def claim(self, what: str) -> bool:
        """Whether this search may do it; others then may not until it is released."""
        if what not in self._held and patiently(self.url, lambda: self._new(what)):
            self._held.add(what)
        return what in self._held

    def release(self, what: str) -> None:
        """It is done."""
        if what in self._held:
            self._held.remove(what)
            patiently(self.url, lambda: self._call("pg_advisory_unlock", what))

    def close(self) -> None:
        """Release all, with the connection that holds them; where that is stuck, nobody waits for it."""
        self._closed.set()
        self._watch.join(LOOK_S)

    def _keep(self) -> None:
        while not self._closed.wait(LOOK_S):
            for _ in range(2):  # the first finds that the connection is gone, the second makes another
                with suppress(DBAPIError):
                    self._call(NOTHING, "")
                    break
        self._forget()
        self._engine.dispose()

    def _new(self, what: str) -> bool:
        self._call(NOTHING, "")
        while (left := self._patient_until - time.monotonic()) > 0:
            time.sleep(left)
        return self._call("pg_try_advisory_lock", what)

    def _call(self, function: str, what: str) -> bool:
        with self._one_at_a_time:
            try:
                if self._connection is None:
                    self._connection = self._engine.connect()
                    self._patient_until = time.monotonic() + GRACE_S
                    for held in [*self._held]:
                        self._execute("pg_try_advisory_lock", held)
                return self._execute(function, what)
            except DBAPIError:
                self._forget()
                raise

    def _execute(self, function: str, what: str) -> bool:
        assert self._connection
        key = int.from_bytes(hashlib.sha256(f"{self.study} {what}".encode()).digest()[:8], signed=True)
        return bool(self._connection.execute(text(f"SELECT {function}(:key)"), {"key": key}).scalar())

    def _forget(self) -> None:
        if self._connection:
            with suppress(DBAPIError):
                self._connection.invalidate()
            self._connection.close()
        self._connection = None


class Alone:
    """The claims of a search that shares its study with none."""

    def claim(self, what: str) -> bool:
        """Always."""
        return True

    def release(self, what: str) -> None:
        """Nothing to do."""

    def close(self) -> None:
        """Nothing to do."""
