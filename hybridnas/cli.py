"""What all commands share: errors become one sentence and an exit code.

0 done, 1 a defect of ours, 2 the user's input, 3 no design holds the budget, 130 stopped by Ctrl-C or SIGTERM.
"""

from __future__ import annotations

import errno
import gc
import io
import signal
import sys
from collections.abc import Sequence
from threading import Timer, main_thread
from typing import TYPE_CHECKING, Any

import typer

from hybridnas.errors import BudgetError, UserError, first_clause
from hybridnas.files import is_full_disk

if TYPE_CHECKING:
    from rich.console import Console

STOPPED = 130
#: How long after a Ctrl-C that Python could not raise it comes again.
AGAIN_S = 0.01

#: What the system says of a file or folder that is not the user's to read or write, or is none.
NOT_ALLOWED = (errno.EACCES, errno.EPERM, errno.EROFS, errno.EEXIST, errno.ENOTDIR, errno.EISDIR)

#: Of flags that several commands have.
TARGET_HELP = "What is timed: cpu, cuda, cuda:N, mps, ssh://user@host[:port] or 'command:PROGRAM {model}'."
RUNTIME_HELP = "What runs the network there: torch, compile, cudagraphs, onnxruntime, openvino, tensorrt."
PRECISION_HELP = "fp32, fp16, bf16 or int8, where runtime and device have it."


def option(*names: str, help: str, panel: str) -> Any:
    """A flag whose default the help says itself, under a heading."""
    return typer.Option(*names, help=help, rich_help_panel=panel, show_default=False)


def wide_console() -> Console:
    """Where progress and tables go: as wide as the terminal, or wide enough for a table in a file."""
    from rich.console import Console

    console = Console()
    return console if console.is_terminal else Console(width=140)


def run(app: typer.Typer, arguments: Sequence[str] | None = None) -> None:
    """Run a command and exit with its code. Being asked to end (SIGTERM) is what Ctrl-C is; a second time, at once."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    sys.unraisablehook = _come_again
    for stream in (sys.stdout, sys.stderr):  # names of files need not be UTF-8
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    code = exit_code(app, arguments)
    gc.freeze()  # at its end Python looks for garbage, too, which takes two seconds
    sys.exit(code)


def _come_again(lost: sys.UnraisableHookArgs) -> None:
    """In a finalizer or a callback of C nothing can be raised: a Ctrl-C that fell into one is sent anew."""
    if sys.platform != "win32" and isinstance(lost.exc_value, KeyboardInterrupt):
        # To this thread, as it may sleep: a signal to the process may wake another.
        Timer(AGAIN_S, signal.pthread_kill, (main_thread().ident, signal.SIGTERM)).start()
    else:
        sys.__unraisablehook__(lost)


def exit_code(app: typer.Typer, arguments: Sequence[str] | None = None) -> int:
    """Run a command; print what went wrong to standard error; return the exit code."""
    try:
        # Commands return nothing; --help and, in newer versions of typer, Ctrl-C end in typer's own code.
        code = int(app(arguments, standalone_mode=False) or 0)
        if code == STOPPED:
            raise KeyboardInterrupt
        return code
    except (UserError, BudgetError) as error:
        print(f"hybridnas: {error}", file=sys.stderr)
        return 3 if isinstance(error, BudgetError) else 2
    except (KeyboardInterrupt, typer.Abort):
        print("hybridnas: stopped; what finished is kept.", file=sys.stderr)
        return STOPPED
    except Exception as error:
        if is_full_disk(error):
            print(
                f"hybridnas: No room is left on a disk ({first_clause(error)}); what finished is kept.", file=sys.stderr
            )
            return 2
        if isinstance(error, OSError) and error.errno in NOT_ALLOWED and error.filename is not None:
            print(f"hybridnas: {error.filename} cannot be used: {error.strerror}.", file=sys.stderr)
            return 2
        # Typer's usage errors have no public class that holds over its versions, but all can say themselves.
        message = getattr(error, "format_message", None)
        if message is None:
            raise
        print(f"hybridnas: {message()}", file=sys.stderr)
        return 2
