"""The timer: milliseconds of a network on the target device.

Machines drift by tens of percent within minutes. So a network is timed in turns with a fixed reference network, and
what is reported is the ratio of the two times the reference's milliseconds at calibration: a figure in the speed that
the machine had when the run began, comparable between trials that lie an hour apart.
"""

from __future__ import annotations

import hashlib
import json
import os
import statistics
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any

from hybridnas.cost import probe
from hybridnas.cost.runtimes import Input, Setting
from hybridnas.cost.targets import Model, open_target

#: How long a network is timed at most, and at least how many turns it takes.
SECONDS = 2.5
MIN_TURNS = probe.MIN_TURNS

#: How often the machine's speed is read when a timer is made, and the seconds between.
READINGS, READING_PAUSE_S = 5, 0.3

#: By what share a machine may have become slower or faster; where it is slower than last time, its speed is read on.
DRIFT = 0.1
READ_ON_S = 12.0


@dataclass(frozen=True)
class Latency:
    """Milliseconds of one forward pass.

    `p50`, its 95 % interval `low` to `high`, and `p95` are in the machine's speed at calibration; `raw_p50` is the
    plain median of the same passes, in the speed that the machine had just then. `num_samples` passes were timed.
    """

    p50: float
    p95: float
    low: float
    high: float
    raw_p50: float
    num_samples: int


class Timer:
    """Times networks on one target.

    Args:
        target: 'cpu', 'cuda', 'cuda:N', 'mps', 'ssh://user@host[:port]' or 'command:TEMPLATE'.
        runtime: A key of `RUNTIMES`.
        precision: One of the runtime's.
        batch_size: Images a pass.
        threads: CPU threads while timing.
        reference: The network that times are ratios to: 'small' or 'large', see `reference_for`.
        reference_ms: The reference network's milliseconds; None measures them now. A run that goes on hands over
            those of its beginning, so that its figures stay comparable.

    Raises:
        ConfigError: the target is unknown or cannot do this.
        TargetError: the target cannot be reached.
    """

    def __init__(
        self,
        target: str = "cpu",
        *,
        runtime: str = "torch",
        precision: str = "fp32",
        batch_size: int = 1,
        threads: int = 1,
        reference: str = "large",
        reference_ms: float | None = None,
    ) -> None:
        self.target = target
        self.setting = Setting(runtime, precision, batch_size, threads, reference)
        self._target = open_target(target, self.setting)
        self.measured = reference_ms is None
        self.reference_ms = reference_ms or self._calibrate()

    def _calibrate(self) -> float:
        """The least of several readings: a neighbour on the machine only slows it, and stays for seconds."""
        readings = [self._target.reference_ms()]
        while len(readings) < READINGS and not self.target.startswith("command:"):  # whose calls are dear
            time.sleep(READING_PAUSE_S)
            readings.append(self._target.reference_ms())
        return min(readings)

    def read_on(self, expected_ms: float) -> None:
        """Read the machine's speed until its reference is as quick as expected, or `READ_ON_S` are over."""
        end = time.monotonic() + READ_ON_S
        while self.reference_ms > (1 + DRIFT) * expected_ms and time.monotonic() < end:
            time.sleep(READING_PAUSE_S)
            self.reference_ms = min(self.reference_ms, self._target.reference_ms())

    def measure(self, model: Model, image_size: int, *, seconds: float = SECONDS) -> Latency:
        """Time `model`, as it is given, until its interval is under 2 % or `seconds` are over.

        Args:
            model: A module, or the path of a file that the runtime takes. Deploy a model of ours first: that form is
                what runs on the device.
            image_size: Pixels a side of what it is given.
            seconds: Warm-up and the first turns not counted.

        Raises:
            CannotRun: the target cannot run this network; the message is the reason.
            TargetError: the target is gone, and stayed so.
        """
        opened = self.open(model, Input((self.setting.batch_size, 3, image_size, image_size)))
        return self.measure_opened([opened], seconds=seconds)[0]

    def measure_apart(self, model: Model, image_size: int, *, sittings: int, seconds: float, pause: float) -> Latency:
        """As `measure`, several times with pauses between: a neighbour on the machine often stays for some seconds.

        The medians' median, with an interval that holds every sitting's.
        """
        found = [self.measure(model, image_size, seconds=seconds)]
        for _ in range(sittings - 1):
            time.sleep(pause)
            found.append(self.measure(model, image_size, seconds=seconds))
        return Latency(
            statistics.median(each.p50 for each in found),
            statistics.median(each.p95 for each in found),
            min(each.low for each in found),
            max(each.high for each in found),
            statistics.median(each.raw_p50 for each in found),
            sum(each.num_samples for each in found),
        )

    def open(self, model: Model, given: Input) -> Any:
        """Make a network or a part of one ready for `measure_opened`.

        Raises:
            CannotRun: the target cannot run it; the message is the reason.
            TargetError: the target is gone, and stayed so.
        """
        return self._target.open(model, given)

    def measure_opened(self, opened: Sequence[Any], *, seconds: float = SECONDS) -> list[Latency]:
        """Time several networks or parts together, in turns: as `measure`, for the time of one and a little."""
        every = self._target.take_turns(opened, seconds=seconds, min_turns=MIN_TURNS)
        return [self._latency(turns) for turns in every]

    def _latency(self, turns: list[probe.Turn]) -> Latency:
        passes = [ms for _, own in turns for ms in own]
        relative = [ms / reference for reference, own in turns for ms in own]
        low, p50, high = (ratio * self.reference_ms for ratio in probe.median_interval(probe.ratios(turns)))
        p95 = statistics.quantiles(relative, n=20, method="inclusive")[-1] * self.reference_ms
        return Latency(p50, max(p50, p95), low, high, statistics.median(passes), len(passes))

    def drift(self) -> float:
        """The reference's time now over its time at calibration: over 1 where the machine became slower."""
        return self._target.reference_ms() / self.reference_ms

    def slowdown_by_threads(self) -> float:
        """How much longer the reference takes with this timer's threads than with one: well over 1 on a busy machine.

        Threads that wait for one that has no core of its own make times meaningless.
        """
        if self.setting.threads == 1 or self.target != "cpu":
            return 1.0
        single = open_target(self.target, replace(self.setting, batch_size=1, threads=1))
        return self._target.reference_ms() / single.reference_ms()

    @cached_property
    def machine(self) -> dict[str, Any]:
        """What the figures depend on besides the network."""
        return {"target": self.target, **asdict(self.setting), **self._target.environment()}

    @property
    def environment(self) -> dict[str, Any]:
        """The machine, and the milliseconds of the reference that all figures are multiples of."""
        return self.machine | {"reference_ms": self.reference_ms}

    @property
    def fingerprint(self) -> str:
        """12 hexadecimal digits that differ where figures cannot be compared; the clock of the moment is left out."""
        lasting = {name: value for name, value in self.machine.items() if name not in ("clock_mhz", "python")}
        return hashlib.sha256(json.dumps(lasting, sort_keys=True).encode()).hexdigest()[:12]


def available_cores() -> int:
    """CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
