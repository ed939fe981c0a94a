"""What networks are timed on: a device of this machine, another machine over ssh, or whatever a command reaches."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import nn

from hybridnas.cost import probe
from hybridnas.cost.command import CommandTarget
from hybridnas.cost.probe import Run, Turn
from hybridnas.cost.reference import reference
from hybridnas.cost.runtimes import Input, Setting, check_installed, open_module, packages_of, to_onnx
from hybridnas.cost.ssh import SshTarget
from hybridnas.errors import CannotRun, ConfigError, TargetError, first_clause
from hybridnas.locks import DeviceLock

#: A network as a module in the form that is deployed, or the file of one.
Model = nn.Module | Path


class Target(Protocol):
    """Something that runs networks and can be asked how long they take. What `open` returns is its own affair."""

    def reference_ms(self) -> float:
        """The reference network's median milliseconds just now.

        Raises:
            TargetError: the target is gone, and stayed so.
        """

    def open(self, model: Model, given: Input) -> Any:
        """Make a network ready to be timed.

        Raises:
            CannotRun: this target cannot run the network; the message is the reason.
            TargetError: the target is gone, and stayed so.
        """

    def take_turns(self, opened: Sequence[Any], *, seconds: float, min_turns: int) -> list[list[Turn]]:
        """Time what was opened, in turns with each other and the reference; one list each. They are closed then.

        Raises:
            CannotRun: one of them failed in the middle.
            TargetError: the target is gone, and stayed so.
        """

    def environment(self) -> dict[str, Any]:
        """What the figures depend on besides the network."""


class LocalTarget:
    """A device of this machine: 'cpu', 'cuda', 'cuda:N' or 'mps'.

    Raises:
        ConfigError: no such device here, or the runtime is not installed or does not run on it.
    """

    def __init__(self, name: str, setting: Setting) -> None:
        self.device = local_device(name)
        self.setting = setting
        check_installed(setting.runtime)
        self._lock = DeviceLock(name)
        try:
            with self._alone():
                self._reference = self.open(*reference(setting.reference))
                probe.warm_up(self._reference, self._time_pass)
        except CannotRun as error:
            raise ConfigError(f"The target {name} cannot run networks so: {error}; {_remedy(setting)}.") from None

    def reference_ms(self) -> float:
        with self._alone():
            probe.warm_up(self._reference, self._time_pass)
            return statistics.median(self._time_pass(self._reference) for _ in range(probe.CALIBRATION_PASSES))

    def open(self, model: Model, given: Input) -> Run:
        if self.setting.takes_file:
            file = model.read_bytes() if isinstance(model, Path) else to_onnx(model, given, self.setting.file_precision)
            return open_file(file, str(self.device), self.setting)
        assert isinstance(model, nn.Module)
        with self._threads():
            return open_module(model, given, self.device, self.setting)

    def take_turns(self, opened: Sequence[Run], *, seconds: float, min_turns: int) -> list[list[Turn]]:
        with self._alone():
            try:
                return probe.take_turns(
                    opened, self._reference, seconds=seconds, time_pass=self._time_pass, min_turns=min_turns
                )
            except Exception as error:  # memory that ran out, or whatever else a runtime says of a pass
                try:
                    self._reference()
                except Exception:  # no network is to blame
                    raise TargetError(f"The target {self.device} is gone: {first_clause(error)}.") from error
                raise CannotRun(f"{self.setting.runtime} on {self.device}: {first_clause(error)}") from error

    def environment(self) -> dict[str, Any]:
        return about_device(self.device, packages_of(self.setting.runtime))

    def _time_pass(self, run: Run) -> float:
        """Milliseconds of one pass, the device's queue drained before and after."""
        if self.device.type == "cuda" and not self.setting.takes_file:
            torch.cuda.synchronize(self.device)
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            start.record(torch.cuda.current_stream(self.device))
            run()
            end.record(torch.cuda.current_stream(self.device))
            end.synchronize()
            return float(start.elapsed_time(end))
        if self.device.type == "mps":
            torch.mps.synchronize()
            return probe.clock(lambda: _drained(run))
        return probe.clock(run)

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """The device for this timer, with its threads."""
        with self._lock.alone(), self._threads():
            yield

    @contextmanager
    def _threads(self) -> Iterator[None]:
        threads = torch.get_num_threads()
        torch.set_num_threads(self.setting.threads)
        try:
            yield
        finally:
            torch.set_num_threads(threads)


def _drained(run: Run) -> None:
    run()
    torch.mps.synchronize()


def open_file(file: bytes, device: str, setting: Setting) -> Run:
    """A pass of an ONNX file in a runtime of this machine.

    Raises:
        CannotRun: the runtime's reason.
    """
    try:
        run = probe.OPEN[setting.runtime](file, device, setting.threads, setting.precision)
        run()
        return run
    except Exception as error:  # runtimes' own errors have no common base
        raise CannotRun(f"{setting.runtime} in {setting.precision} on {device}: {first_clause(error)}") from error


def open_target(name: str, setting: Setting) -> Target:
    """The target that `--target` names.

    Raises:
        ConfigError: there is no such target, or it cannot do what the setting asks.
        TargetError: it cannot be reached.
    """
    if name.startswith("ssh:"):
        return SshTarget(name, setting)
    if name.startswith("command:"):
        return CommandTarget(name.removeprefix("command:"), setting)
    return LocalTarget(name, setting)


def _remedy(setting: Setting) -> str:
    if setting.precision != "fp32":
        return "choose --precision fp32, or a device that has it"
    return "choose another --runtime or --target"


def local_device(target: str) -> torch.device:
    """The torch device called `target`.

    Raises:
        ConfigError: no such device here.
    """
    try:
        device = torch.device(target)
    except RuntimeError:
        raise ConfigError(
            f"Unknown device {target!r}; known are cpu, cuda, cuda:N and mps, as targets also ssh://user@host[:port] "
            "and command:TEMPLATE."
        ) from None
    present = {
        "cpu": True,
        "cuda": torch.cuda.is_available() and (device.index or 0) < torch.cuda.device_count(),
        "mps": torch.backends.mps.is_available(),
    }
    if not present.get(device.type, False):
        here = ", ".join(name for name, there in present.items() if there)
        raise ConfigError(f"The device {target!r} is not on this machine; it has {here}.")
    return device


def about_device(device: torch.device, packages: list[str]) -> dict[str, Any]:
    """What figures of a local device depend on besides the network; with the versions of some packages."""
    about: dict[str, Any] = probe.about_machine(packages)
    if device.type == "cuda":
        about |= {"gpu": torch.cuda.get_device_name(device), "cuda": torch.version.cuda}
    return about


def best_device() -> str:
    """The fastest kind of device that this machine has."""
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"
