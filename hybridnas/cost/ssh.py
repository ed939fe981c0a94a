"""Timing on another machine, which needs no more than an ssh server and Python with the runtime."""

from __future__ import annotations

import contextlib
import itertools
import shlex
import shutil
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from torch import nn

from hybridnas.cost import probe
from hybridnas.cost.connection import Connection, Lost, ssh_arguments
from hybridnas.cost.probe import Turn
from hybridnas.cost.reference import reference
from hybridnas.cost.runtimes import Input, Setting, check_installed, packages_of, to_onnx, to_program
from hybridnas.errors import CannotRun, ConfigError, TargetError, first_clause
from hybridnas.locks import DeviceLock

#: Before each attempt to connect again, once a connection has ended.
WAITS_S = (1, 2, 4, 8, 16, 32)
#: For the first answer, and for any other beyond the seconds that it was asked to time.
GREETING_S = 30.0
ANSWER_S = 120.0
#: A network that ends the connection as often as this is the one to blame.
MAX_LOSSES = 2

T = TypeVar("T")


@dataclass(frozen=True)
class Opened:
    """A network's file and what the other end calls it; a new connection is sent it again."""

    name: str
    file: bytes


class SshTarget:
    """The CPU, or with the runtime tensorrt the GPU, of another machine.

    A connection that ends is opened again, and the request repeated.

    Args:
        url: 'ssh://user@host[:port]'; the user may be left out, and the host may be a name of ~/.ssh/config.
        setting: Its runtime must be there: onnxruntime, openvino, tensorrt or torch.

    Raises:
        ConfigError: the URL is none, the setting cannot be had there, or ssh or an exporter is not installed here.
        TargetError: the machine cannot be reached, or Python or the runtime is not there.
    """

    def __init__(self, url: str, setting: Setting) -> None:
        self.url, self.setting = url, setting
        self._ssh = ssh_arguments(url)
        if setting.runtime not in probe.OPEN:
            raise ConfigError(
                f"The runtime {setting.runtime} runs on this machine only; over ssh --runtime must be one of "
                f"{', '.join(probe.OPEN)}."
            )
        if setting.takes_file:
            check_installed(setting.runtime, runs_here=setting.precision == "int8")  # which onnxruntime writes
        if shutil.which("ssh") is None:
            raise ConfigError(f"The target {url} needs the OpenSSH client, and there is no program `ssh` on the PATH.")
        self._lock = DeviceLock(url.replace("/", ""))
        self._reference = b""
        self._numbers = itertools.count()
        try:
            self._connection = self._connect_first()
        except Lost as lost:
            by_hand = shlex.join(self._ssh)
            remedy = lost.remedy.format(ssh=by_hand) or f"see what `{by_hand}` says"
            raise TargetError(f"The target {url} cannot be used: {lost}; {remedy}.") from None
        except CannotRun as error:
            raise ConfigError(
                f"The target {url} cannot run networks so: {error}; choose another --precision or --runtime."
            ) from None

    def reference_ms(self) -> float:
        """The reference network's median milliseconds just now."""
        with self._lock.alone():
            try:
                answer = self._repeat(lambda: self._ask("reference", within=ANSWER_S, passes=probe.CALIBRATION_PASSES))
            except Lost as lost:
                raise self._gone(lost) from None
        if "error" in answer:
            raise self._gone(answer["error"])
        return float(statistics.median(answer["ms"]))

    def open(self, model: nn.Module | Path, given: Input) -> Opened:
        """Send a network there.

        Raises:
            CannotRun: it cannot be exported, the runtime there cannot run it, or ends while it does.
            TargetError: the machine is gone, and stayed so.
        """
        file = model.read_bytes() if isinstance(model, Path) else self._export(model, given)
        opened = Opened(f"network {next(self._numbers)}", file)
        try:
            self._repeat(lambda: self._send(opened))
        except Lost as lost:
            raise self._blamed(lost) from None
        return opened

    def take_turns(self, opened: Sequence[Opened], *, seconds: float, min_turns: int) -> list[list[Turn]]:
        """Time what was opened, in turns with each other and the reference; one list each. They are closed then.

        Raises:
            CannotRun: one of them failed in the middle.
            TargetError: the machine is gone, and stayed so.
        """
        names = [each.name for each in opened]
        within = ANSWER_S + seconds + len(opened)  # the probe warms up each for about a second

        def time_all() -> dict[str, Any]:
            for each in opened:
                if each.name not in self._connection.holds:  # it is another connection than that of `open`
                    self._send(each)
            return self._ask("turns", within=within, names=names, seconds=seconds, min_turns=min_turns)

        with self._lock.alone():
            try:
                answer = self._repeat(time_all)
            except Lost as lost:
                raise self._blamed(lost) from None
            finally:
                with contextlib.suppress(Lost):
                    self._ask("close", within=ANSWER_S)
                    self._connection.holds.clear()
        if "error" in answer:
            raise self._cannot_run(answer)
        return [[(reference, own) for reference, own in turns] for turns in answer["turns"]]

    def environment(self) -> dict[str, Any]:
        """What the figures depend on besides the network: the machine's processor and versions."""
        return self._about

    def close(self) -> None:
        """End the connection; so do the end of this object and of the program."""
        self._connection.close()

    def _export(self, network: nn.Module, given: Input) -> bytes:
        write = to_onnx if self.setting.takes_file else to_program
        return write(network, given, self.setting.file_precision)

    def _connect_first(self) -> Connection:
        """A mistyped host fails at once; a server that only had too many connections just then is asked again."""
        try:
            return self._connect()
        except Lost as lost:
            if lost.remedy:
                raise
            time.sleep(WAITS_S[0])
            return self._connect()

    def _connect(self) -> Connection:
        """A connection that has the reference open.

        Raises:
            Lost: there is none, or what it leads to lacks something.
            CannotRun: the runtime there cannot run the reference.
        """
        connection = Connection(self._ssh)
        packages = packages_of(self.setting.runtime)
        package = packages[self.setting.runtime == "tensorrt"]
        try:
            self._about = connection.ask({"ask": "environment", "packages": packages}, within=GREETING_S)
            # Exported once somebody is there, and then kept.
            self._reference = self._reference or self._export(*reference(self.setting.reference))
            answer = connection.ask(self._opening("reference", self._reference), self._reference, within=ANSWER_S)
            if (error := answer.get("error", "")).startswith(("ImportError", "ModuleNotFoundError")):
                other = "onnxruntime" if package == "torch" else "torch"
                raise Lost(
                    f"its python3 cannot import {package} ({first_clause(Exception(error))})",
                    f"pip install {package} on that machine, or choose --runtime {other}",
                )
            if error:
                raise self._cannot_run(answer)
        except BaseException:
            connection.close()
            raise
        return connection

    def _repeat(self, action: Callable[[], T]) -> T:
        """What `action` gives, through a new connection if the present one ends.

        Raises:
            Lost: that ended, too, though it could be opened.
            TargetError: none could be opened.
        """
        for _ in range(MAX_LOSSES):
            try:
                return action()
            except Lost as error:
                lost = error
                self._reconnect(error)
        raise lost

    def _reconnect(self, reason: Exception) -> None:
        for wait_s in WAITS_S:
            time.sleep(wait_s)
            try:
                self._connection = self._connect()
                return
            except (Lost, CannotRun) as error:
                reason = error
        raise self._gone(reason)

    def _send(self, opened: Opened) -> None:
        answer = self._connection.ask(self._opening(opened.name, opened.file), opened.file, within=ANSWER_S)
        if "error" in answer:
            raise self._cannot_run(answer)
        self._connection.holds.add(opened.name)

    def _opening(self, name: str, file: bytes) -> dict[str, Any]:
        return {
            "ask": "open",
            "name": name,
            "size": len(file),
            "runtime": self.setting.runtime,
            "device": "cuda" if self.setting.runtime == "tensorrt" else "cpu",
            "threads": self.setting.threads,
            "precision": self.setting.precision,
        }

    def _ask(self, ask: str, *, within: float, **more: object) -> dict[str, Any]:
        return self._connection.ask({"ask": ask, **more}, within=within)

    def _cannot_run(self, answer: dict[str, Any]) -> CannotRun:
        reason = first_clause(Exception(answer["error"]))
        return CannotRun(f"{self.setting.runtime} in {self.setting.precision} on {self.url}: {reason}")

    def _blamed(self, lost: Lost) -> CannotRun:
        return CannotRun(f"{self.url} was lost {MAX_LOSSES} times with this network: {lost}")

    def _gone(self, reason: Exception | str) -> TargetError:
        return TargetError(
            f"The target {self.url} stopped answering: {reason}; what finished is kept, go on with --resume when it "
            "is back."
        )
