"""A connection over the OpenSSH client to a probe at its other end.

The probe's source and the networks' files go there through standard input: nothing stays on the disk there. Keys, jump
hosts and the like are ~/.ssh/config's matter.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import selectors
import subprocess
import tempfile
import time
import weakref
from pathlib import Path
from typing import IO, Any

from hybridnas.cost import probe
from hybridnas.errors import ConfigError

URL = re.compile(r"ssh://((?:\w[\w.+-]*@)?(?:\w[\w.-]*|\[[\da-fA-F:.]+(?:%\w+)?\]))(?::(\d{1,5}))?", re.ASCII)
OPTIONS = "-T -o BatchMode=yes -o ConnectTimeout=10 -o ServerAliveInterval=5 -o ServerAliveCountMax=3".split()
#: What ssh says, what it means, and what to do; {ssh} is the command to try by hand.
REMEDIES = {
    "Could not resolve hostname": ("no such host is known here", "check the name"),
    "Connection refused": ("it refuses the connection", "see that an ssh server runs there, on that port"),
    "timed out": ("it does not answer", "see that it is on and can be reached from here"),
    "No route to host": ("no way leads there", "see that it is on and can be reached from here"),
    "Network is unreachable": ("no way leads there", "see that it is on and can be reached from here"),
    "Host key verification failed": (
        "its host key is unknown or has changed",
        "connect once by hand with `{ssh}` to check and accept the key",
    ),
    "Permission denied": ("it refuses the login", "set up a login by key, so that `{ssh}` asks for no password"),
}


class Lost(Exception):  # noqa: N818
    """A connection that ended or is silent, and what the user can do about it, if that is known."""

    def __init__(self, reason: str, remedy: str = "") -> None:
        super().__init__(reason)
        self.remedy = remedy


class Connection:
    """One run of ssh with the probe at its other end."""

    def __init__(self, ssh: list[str]) -> None:
        source = Path(probe.__file__).read_bytes()
        # Double quotes, because every shell that a login may have knows those.
        bootstrap = f'python3 -u -c "import sys;exec(sys.stdin.buffer.read({len(source)}))"'
        #: Names of the networks that the other end has open.
        self.holds: set[str] = set()
        self._heard = False
        self._to_send = source
        self._received = b""
        self._stderr = tempfile.TemporaryFile()  # no pipe: nobody would empty it
        self._process = subprocess.Popen(
            [ssh[0], *OPTIONS, *ssh[1:], bootstrap],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._stderr,
            bufsize=0,
            start_new_session=True,  # Ctrl-C is for us, who then end it
        )
        assert self._process.stdin is not None and self._process.stdout is not None
        self._stdin, self._stdout = self._process.stdin, self._process.stdout
        os.set_blocking(self._stdin.fileno(), False)
        self.close = weakref.finalize(self, _end, self._process, self._stderr)

    def ask(self, request: dict[str, Any], file: bytes = b"", *, within: float) -> dict[str, Any]:
        """The answer to a request, if it comes `within` so many seconds from the last byte that could be sent.

        Raises:
            Lost: it did not come, and the connection is closed.
        """
        if not self.close.alive:
            raise Lost("the connection is closed")
        try:
            return self._ask(request, file, within)
        except BaseException:  # Ctrl-C, too: an answer that comes late must not be taken for the next one's
            self.close()
            raise

    def _ask(self, request: dict[str, Any], file: bytes, within: float) -> dict[str, Any]:
        unsent = memoryview(self._to_send + json.dumps(request).encode() + b"\n" + file)
        self._to_send = b""
        end = time.monotonic() + within
        with selectors.DefaultSelector() as selector:
            selector.register(self._stdout, selectors.EVENT_READ)
            selector.register(self._stdin, selectors.EVENT_WRITE)
            while True:
                ready = selector.select(max(0.0, end - time.monotonic()))
                if not ready:
                    raise Lost(f"no answer within {within:.0f} s")
                for key, _ in ready:
                    if key.fileobj is self._stdin:
                        unsent = unsent[self._send(unsent) :]
                        end = time.monotonic() + within
                        if not unsent:
                            selector.unregister(self._stdin)
                    elif (answer := self._receive()) is not None:
                        return answer

    def _send(self, unsent: memoryview) -> int:
        try:
            return os.write(self._stdin.fileno(), unsent[:65536])
        except BlockingIOError:
            return 0
        except BrokenPipeError:
            raise self._ended() from None

    def _receive(self) -> dict[str, Any] | None:
        chunk = os.read(self._stdout.fileno(), 65536)
        if not chunk:
            raise self._ended()
        *lines, self._received = (self._received + chunk).split(b"\n")
        for line in lines:
            with contextlib.suppress(ValueError):  # a login shell may greet before the probe answers
                if isinstance(answer := json.loads(line), dict):
                    self._heard = True
                    return answer
        return None

    def _ended(self) -> Lost:
        """Why ssh ended, in its own words where we know no better."""
        try:
            code = self._process.wait(5)
        except subprocess.TimeoutExpired:
            return Lost("the connection ended")
        said = os.pread(self._stderr.fileno(), 65536, max(0, os.fstat(self._stderr.fileno()).st_size - 65536))
        text = said.decode(errors="replace").strip()
        last = f" ({text.splitlines()[-1].strip()[:120]})" if text else ""
        if self._heard:
            return Lost(f"the connection ended{last}")
        if code != 255:  # ssh's own failures; any other code is the command's
            if code == 127 or "not found" in last:
                return Lost(f"there is no python3{last}", "install Python there, on the PATH that `{ssh} env` shows")
            return Lost(f"its python3 ended with code {code}{last}", "it must be Python 3.9 or newer")
        for sign, (reason, remedy) in REMEDIES.items():
            if sign in text:
                return Lost(reason, remedy)
        return Lost(f"the connection ended{last}")


def _end(process: subprocess.Popen[bytes], stderr: IO[bytes]) -> None:
    for pipe in (process.stdin, process.stdout, stderr):
        assert pipe is not None
        pipe.close()
    process.terminate()
    try:
        process.wait(2)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def ssh_arguments(url: str) -> list[str]:
    """The command that a hand would type.

    Raises:
        ConfigError: `url` is not of the form, or might be taken for an option.
    """
    match = URL.fullmatch(url)
    if match is None or not 0 < int(match[2] or 22) < 65536:
        raise ConfigError(f"A target over ssh is written ssh://user@host[:port], got {url!r}.")
    destination = match[1].replace("[", "").replace("]", "")
    return ["ssh", *(["-p", match[2]] if match[2] else []), destination]
