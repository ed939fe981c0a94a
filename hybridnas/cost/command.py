"""Timing by any program that takes the path of an ONNX file: an adb wrapper, trtexec, a vendor's tool."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import math
import os
import re
import shlex
import shutil
import signal
import statistics
import subprocess
import tempfile
import time
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

from torch import nn

from hybridnas.cost import probe
from hybridnas.cost.probe import Turn
from hybridnas.cost.reference import reference
from hybridnas.cost.runtimes import Input, Setting, check_installed, to_onnx
from hybridnas.errors import CannotRun, ConfigError, TargetError, first_clause
from hybridnas.locks import DeviceLock

#: A program that takes longer is ended.
TIMEOUT_S = 120.0
#: Before each new attempt, once the program has failed with the reference.
WAITS_S = (1, 2, 4, 8, 16, 32)
#: Each call of a program is dear: fewer turns than a loop in one process takes.
MIN_TURNS = 3
REFERENCE_CALLS = 3
#: A network with which the program fails as often as this is the one to blame.
MAX_FAILURES = 2

PLACEHOLDERS = ("model", "threads", "batch")
#: A word in braces; a shell's ${word} is not meant.
PLACEHOLDER = re.compile(r"(?<!\$)\{(\w+)\}")
EXPECTED = 'its last line must be a number of milliseconds, {"latency_ms": NUMBER} or {"samples": [NUMBER, ...]}'


class CommandTarget:
    """What a program times.

    The template is split as a shell would, but run without one: pipes and variables need `sh -c '...'`. {model}
    becomes the path of an ONNX file, {threads} and {batch} the setting's numbers.

    The program prints, as its last line that is not empty (or, if that is JSON, as all it prints), the milliseconds of
    one pass: a number, an object with the number "latency_ms", or one with the list of numbers "samples", a pass
    each. Its exit code is 0 unless it could not run the network.

    Args:
        template: As in --target 'command:TEMPLATE'.
        setting: With the runtime onnxruntime, since the file is ONNX; the program decides what runs it.

    Raises:
        ConfigError: the template is none, or its program is not here; the setting has another runtime.
        TargetError: the program fails with the reference network.
    """

    def __init__(self, template: str, setting: Setting) -> None:
        self.template, self.setting = template, setting
        self._arguments = _split(template)
        if setting.runtime != "onnxruntime":
            raise ConfigError(
                f"A command target is handed an ONNX file and needs --runtime onnxruntime, got {setting.runtime}."
            )
        check_installed(setting.runtime, runs_here=setting.precision == "int8")  # which onnxruntime writes
        self._lock = DeviceLock(f"command-{hashlib.sha256(template.encode()).hexdigest()[:12]}")
        self._numbers = itertools.count()
        # tempfile's own folder object would warn when it is collected.
        self._folder = Path(tempfile.mkdtemp(prefix="hybridnas-"))
        weakref.finalize(self, shutil.rmtree, self._folder, ignore_errors=True)
        try:
            self._reference = self._file(*reference(setting.reference), "reference.onnx")
        except CannotRun as error:
            raise ConfigError(f"The reference network cannot be written in {setting.precision}: {error}.") from None
        try:
            with self._lock.alone():
                self._samples(self._reference)
        except _Failed as failed:
            raise TargetError(f"The target command:{template} fails with the reference network: {failed}.") from None

    def reference_ms(self) -> float:
        """The reference network's median milliseconds just now."""
        with self._lock.alone():
            return statistics.median(self._time_reference() for _ in range(REFERENCE_CALLS))

    def open(self, model: nn.Module | Path, given: Input) -> Path:
        """Write a network's file, and see that the program takes it.

        Raises:
            CannotRun: it has no ONNX form, or the program fails with it, though not with the reference.
            TargetError: the program fails with both, and stayed so, or prints no milliseconds.
        """
        if isinstance(model, Path):
            file = model
        else:
            file = self._file(model, given, f"network-{next(self._numbers)}.onnx")
        try:
            with self._lock.alone():
                self._time_network(file)
        except BaseException:
            self._remove(file)
            raise
        return file

    def take_turns(self, opened: Sequence[Path], *, seconds: float, min_turns: int) -> list[list[Turn]]:
        """Time files in turns with each other and the reference, a call each; one list each. Then ours are removed.

        Raises:
            CannotRun: the program failed with one of them in the middle.
            TargetError: it failed with the reference, too, and stayed so, or printed no milliseconds.
        """
        least = max(1, min(MIN_TURNS, min_turns))
        turns: list[list[Turn]] = [[] for _ in opened]
        try:
            with self._lock.alone():
                end = time.monotonic() + seconds
                before = self._time_reference()
                for number in itertools.count(1):
                    own = [self._time_network(file) for file in opened]
                    after = self._time_reference()
                    for mine, samples in zip(turns, own, strict=True):
                        mine.append(((before + after) / 2, samples))
                    before = after
                    if number >= least and (time.monotonic() > end or all(probe.is_narrow(mine) for mine in turns)):
                        break
        finally:
            for file in opened:
                self._remove(file)
        return turns

    def environment(self) -> dict[str, Any]:
        """What the figures depend on besides the network: all that is known is the command."""
        return {"command": self.template}

    def _file(self, network: nn.Module, given: Input, name: str) -> Path:
        path = self._folder / name
        path.write_bytes(to_onnx(network, given, self.setting.file_precision))
        return path

    def _remove(self, file: Path) -> None:
        if file.parent == self._folder:
            file.unlink(missing_ok=True)

    def _time_reference(self) -> float:
        """Milliseconds of the reference, as soon as the program gives them.

        Raises:
            TargetError: it did not, however often it was asked.
        """
        for wait_s in (0.0, *WAITS_S):
            time.sleep(wait_s)
            try:
                return statistics.median(self._samples(self._reference))
            except _Failed as error:
                failed = error
        raise TargetError(
            f"The target command:{self.template} stopped answering: {failed}; what finished is kept, go on with "
            "--resume when it is back."
        )

    def _time_network(self, file: Path) -> list[float]:
        for _ in range(MAX_FAILURES):
            try:
                return self._samples(file)
            except _Failed as error:
                failed = error
            if self._works():
                break
            self._time_reference()
        raise CannotRun(f"the command: {failed}")

    def _works(self) -> bool:
        try:
            self._samples(self._reference)
        except _Failed:
            return False
        return True

    def _samples(self, file: Path) -> list[float]:
        """Milliseconds of each pass that one call of the program timed.

        Raises:
            _Failed: it ended with an error, or not at all.
            TargetError: it printed no milliseconds.
        """
        values = {"model": file.resolve(), "threads": self.setting.threads, "batch": self.setting.batch_size}
        printed = _run([PLACEHOLDER.sub(lambda match: str(values[match[1]]), text) for text in self._arguments])
        samples = _read(printed)
        if samples is None:
            raise TargetError(f"The target command:{self.template} printed {printed.strip()[:80]!r}; {EXPECTED}.")
        return samples


class _Failed(Exception):  # noqa: N818
    """A call that gave no figure; the message is the reason."""


def _split(template: str) -> list[str]:
    """The arguments, placeholders still in them.

    Raises:
        ConfigError: the template has no {model}, or another placeholder, or its program is not here.
    """
    try:
        arguments = shlex.split(template)
    except ValueError as error:
        raise ConfigError(f"The command {template!r} cannot be split into arguments: {error}.") from None
    named = [name for text in arguments for name in PLACEHOLDER.findall(text)]
    if unknown := sorted(set(named) - set(PLACEHOLDERS)):
        raise ConfigError(
            f"The command {template!r} has {{{unknown[0]}}}, which stands for nothing; placeholders are "
            f"{', '.join(f'{{{name}}}' for name in PLACEHOLDERS)}."
        )
    if "model" not in named:
        raise ConfigError(f"The command {template!r} must have {{model}} where the path of the ONNX file goes.")
    if shutil.which(arguments[0]) is None:
        raise ConfigError(f"There is no program {arguments[0]!r} to run the command {template!r}.")
    return arguments


def _run(arguments: list[str]) -> str:
    """What a program prints.

    Raises:
        _Failed: it cannot be started, ends with an error, or does not end; then all that it started is ended.
    """
    # Files, not pipes: a daemon that it leaves behind, as adb does, would hold those open.
    with tempfile.TemporaryFile() as stdout, tempfile.TemporaryFile() as stderr:
        try:
            process = subprocess.Popen(
                arguments, stdin=subprocess.DEVNULL, stdout=stdout, stderr=stderr, start_new_session=True
            )
        except OSError as error:
            raise _Failed(f"it cannot be started: {error.strerror}") from None
        try:
            code = process.wait(TIMEOUT_S)
        except BaseException as error:  # Ctrl-C, too, which does not reach another session
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            if isinstance(error, subprocess.TimeoutExpired):
                raise _Failed(f"it did not end within {TIMEOUT_S:g} s") from None
            raise
        printed, complaint = (_text(file) for file in (stdout, stderr))
    if code != 0:
        lines = (complaint.strip() or printed.strip()).splitlines()
        said = f": {first_clause(Exception(lines[-1]))}" if lines else ""
        raise _Failed(f"it ended {f'with code {code}' if code > 0 else f'by signal {-code}'}{said}")
    return printed


def _text(file: IO[bytes]) -> str:
    file.seek(0)
    return file.read().decode(errors="replace")


def _read(printed: str) -> list[float] | None:
    """The milliseconds in what a program printed, or None."""
    text = printed.strip()
    for part in (text, *text.splitlines()[-1:]):
        with contextlib.suppress(ValueError):
            found = json.loads(part, parse_int=float)
            break
    else:
        return None
    if isinstance(found, list):  # samples have a name, so that no other list is taken for them
        return None
    if isinstance(found, dict):
        found = found.get("samples", found.get("latency_ms"))
    samples: list[Any] = found if isinstance(found, list) else [found]
    good = all(isinstance(value, float) and math.isfinite(value) and value > 0 for value in samples)
    return samples if good and samples else None
