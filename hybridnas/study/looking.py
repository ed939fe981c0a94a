"""A study in optuna-dashboard: read only, as it is the run itself, and the dashboard has a button to delete it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Thread
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, make_server

from optuna.storages import RDBStorage
from sqlalchemy.exc import SQLAlchemyError

from hybridnas.errors import ConfigError, RunError, first_clause
from hybridnas.study.run import read_settings
from hybridnas.study.sharing import promptly, read_url, without_password
from hybridnas.study.storage import STUDY_FILE, sqlite_url

#: How long a Ctrl-C may wait at most.
LOOK_S = 0.2


class _Quiet(WSGIRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 (the parent's name)
        pass


@contextmanager
def read_only(folder: Path) -> Iterator[RDBStorage]:
    """The studies of a run folder, or of the server that it shares; nothing can be written to them.

    Raises:
        RunError: it is no run folder, has no study, or the study cannot be read.
        ConfigError: the server cannot be reached.
    """
    config = read_settings(folder)
    path = folder / STUDY_FILE
    prompt: dict[str, Any] = {}
    if config.storage:
        url = read_url(config.storage).update_query_dict({"options": "-c default_transaction_read_only=on"})
        address, place = url.render_as_string(hide_password=False), without_password(config.storage)
        prompt = {"connect_args": promptly(url)}
    elif path.is_file():
        address, place = sqlite_url(path, read_only=True), str(path)
    else:
        raise RunError(f"{folder} has no {STUDY_FILE}: the search has not begun yet.")
    try:
        storage = RDBStorage(address.replace("{", "{{").replace("}", "}}"), engine_kwargs=prompt)
        storage.get_all_studies()
    except (SQLAlchemyError, RuntimeError) as error:
        raise RunError(f"{place} cannot be read: {first_clause(error)}.") from None
    try:
        yield storage
    finally:
        storage.remove_session()
        storage.engine.dispose()


def serve(folder: Path, host: str, port: int, ready: Callable[[str], None]) -> None:
    """Show a run's studies until Ctrl-C.

    Args:
        folder: The run's.
        host: Where to answer.
        port: Likewise; 0 takes a free one.
        ready: Told the address, once it answers.

    Raises:
        ConfigError: optuna-dashboard is not installed, or the port is taken.
        RunError: as `read_only`.
    """
    try:
        from optuna_dashboard import wsgi
    except ImportError:
        raise ConfigError("The dashboard needs optuna-dashboard: pip install 'hybridnas[dashboard]'.") from None
    with read_only(folder) as storage:
        try:
            server = make_server(host, port, wsgi(storage), handler_class=_Quiet)
        except OSError as error:
            raise ConfigError(f"--host {host} --port {port} cannot be used: {error.strerror or error}.") from None

        def answer() -> None:
            server.serve_forever()
            storage.remove_session()  # this thread's

        # In a thread of its own: wsgiref swallows what is raised while it answers, a Ctrl-C, too.
        answering = Thread(target=answer)
        with server:
            answering.start()
            try:
                ready(f"http://{host}:{server.server_port}/dashboard")
                while answering.is_alive():
                    answering.join(LOOK_S)
            except KeyboardInterrupt:
                pass
            finally:
                server.shutdown()
                answering.join()
