"""The timer: milliseconds of a network on the target device.

Machines drift by tens of percent within minutes. So the network is timed in turns with a small fixed reference
network, and what is reported is the ratio of the two times the reference's milliseconds at calibration: a figure in
the speed that the machine had when the run began, comparable between trials that lie an hour apart.
"""

from __future__ import annotations

import os
import platform
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from hybridnas.errors import ConfigError
from hybridnas.model import image_batch

WARM_UP_S = 0.15
MIN_PAIRS = 21


@dataclass(frozen=True)
class Latency:
    """Milliseconds of one forward pass.

    `p50` and `p95` are in the machine's speed at calibration; `raw_p50` is the plain median of the same passes, in the
    speed that the machine had just then. `num_samples` passes were timed.
    """

    p50: float
    p95: float
    raw_p50: float
    num_samples: int


class Timer:
    """Times networks on one target.

    Args:
        target: 'cpu', 'cuda', 'cuda:N' or 'mps'.
        batch_size: Images a pass.
        threads: CPU threads that torch may use while timing.
        reference_ms: The reference network's milliseconds; None measures them now. A run that goes on hands over
            those of its beginning, so that its figures stay comparable.
    """

    def __init__(
        self, target: str = "cpu", *, batch_size: int = 1, threads: int = 1, reference_ms: float | None = None
    ) -> None:
        self.device = local_device(target)
        self.target = target
        self.batch_size = batch_size
        self.threads = threads
        with self._alone():
            self._reference = _reference_pass(self.device)
            _warm_up(self._reference, seconds=0.5)
            self.reference_ms = reference_ms or statistics.median(self._time(self._reference) for _ in range(100))

    def measure(self, network: nn.Module, image_size: int, *, seconds: float = 0.5) -> Latency:
        """Time `network`, as it is given, for about `seconds`, at least 21 passes; it moves to the target.

        Deploy a model of ours first: that form is what runs on the device.
        """
        network = network.to(self.device)
        with self._alone():
            images = image_batch(self.batch_size, image_size, self.device)

            def candidate() -> Tensor:
                out: Tensor = network(images)
                return out

            _warm_up(candidate, seconds=WARM_UP_S)
            own: list[float] = []
            ratios: list[float] = []
            end = time.perf_counter() + seconds
            while len(own) < MIN_PAIRS or time.perf_counter() < end:
                before = self._time(self._reference)
                own.append(self._time(candidate))
                after = self._time(self._reference)
                ratios.append(2 * own[-1] / (before + after))
        p95 = statistics.quantiles(ratios, n=20)[-1]
        return Latency(
            p50=statistics.median(ratios) * self.reference_ms,
            p95=p95 * self.reference_ms,
            raw_p50=statistics.median(own),
            num_samples=len(own),
        )

    def slowdown_by_threads(self) -> float:
        """How much longer the reference takes with this timer's threads than with one: well over 1 on a busy machine.

        Threads that wait for one that has no core of its own make times meaningless.
        """
        if self.threads == 1 or self.device.type != "cpu":
            return 1.0
        single = Timer(self.target, batch_size=self.batch_size, threads=1)
        with self._alone():
            return statistics.median(self._time(self._reference) for _ in range(100)) / single.reference_ms

    def environment(self) -> dict[str, Any]:
        """What the figures depend on: device, threads, versions, the reference's milliseconds."""
        device = torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else _cpu_name()
        return {
            "target": self.target,
            "device": device,
            "threads": self.threads,
            "batch_size": self.batch_size,
            "reference_ms": self.reference_ms,
            "torch": torch.__version__,
            "python": platform.python_version(),
            "platform": platform.platform(),
        }

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Inference mode, this timer's threads and its own random numbers, all undone afterwards."""
        threads = torch.get_num_threads()
        torch.set_num_threads(self.threads)
        try:
            with torch.inference_mode(), torch.random.fork_rng(devices=[]):
                yield
        finally:
            torch.set_num_threads(threads)

    def _time(self, run: Callable[[], Tensor]) -> float:
        """Milliseconds of one pass, the device's queue drained before and after."""
        _drain(self.device)
        start = time.perf_counter()
        run()
        _drain(self.device)
        return (time.perf_counter() - start) * 1e3


def local_device(target: str) -> torch.device:
    """The torch device called `target`.

    Raises:
        ConfigError: no such device here.
    """
    try:
        device = torch.device(target)
    except RuntimeError:
        raise ConfigError(f"Unknown device {target!r}; known are cpu, cuda, cuda:N and mps.") from None
    present = {
        "cpu": True,
        "cuda": torch.cuda.is_available() and (device.index or 0) < torch.cuda.device_count(),
        "mps": torch.backends.mps.is_available(),
    }
    if not present.get(device.type, False):
        here = ", ".join(name for name, there in present.items() if there)
        raise ConfigError(f"The device {target!r} is not on this machine; it has {here}.")
    return device


def best_device() -> str:
    """The fastest kind of device that this machine has."""
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def available_cores() -> int:
    """CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _reference_pass(device: torch.device) -> Callable[[], Tensor]:
    """A small network with what ours are made of: dense and depthwise convolution, matrix products, elementwise work.

    It is as deep as they are, some thirty operators and a few milliseconds on a CPU: what slows a machine down slows
    every operator down, so that a reference of few operators would not feel what a candidate of many does.
    """
    layers: list[nn.Module] = [nn.Conv2d(3, 32, 3, stride=2, padding=1)]
    for _ in range(5):
        layers += [nn.Conv2d(32, 32, 3, padding=1, groups=32), nn.Conv2d(32, 64, 1), nn.GELU(), nn.Conv2d(64, 32, 1)]
    layers.append(nn.Flatten(2))
    for _ in range(3):
        layers += [nn.LayerNorm(256), nn.Linear(256, 256), nn.GELU()]
    network = nn.Sequential(*layers).eval().requires_grad_(False).to(device)
    images = image_batch(1, 32, device)

    def run() -> Tensor:
        out: Tensor = network(images)
        return out

    return run


def _warm_up(run: Callable[[], Tensor], *, seconds: float) -> None:
    end = time.perf_counter() + seconds
    for i in range(1000):
        run()
        if i >= 2 and time.perf_counter() > end:
            return


def _drain(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def _cpu_name() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            names = [line.partition(":")[2].strip() for line in file if line.startswith("model name")]
        return names[0] if names else platform.machine()
    except OSError:
        return platform.processor() or platform.machine()
