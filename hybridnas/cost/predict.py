"""What an architecture costs, from the table: without building it, once its parts are known."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from hybridnas.architecture import Architecture
from hybridnas.cost.calibration import Calibration, Sum
from hybridnas.cost.latency import SECONDS, Latency, Timer
from hybridnas.cost.macs import count_macs_of
from hybridnas.cost.parts import Part, Timing, parts_of, placed_parts_of, timings_of
from hybridnas.cost.runtimes import OF_TORCH, Input
from hybridnas.cost.table import CALL, Count, Table, Time, Timed, code_digest
from hybridnas.errors import CannotRun
from hybridnas.model import build, num_params

#: So many parts take turns at most: about as many as a network has.
TOGETHER = 12


@dataclass(frozen=True)
class Prediction:
    """Milliseconds in the timer's reference speed: the median and its 95 % interval."""

    ms: float
    low: float
    high: float


class Counter:
    """MACs and parameters of architectures as exact sums of their parts'.

    Args:
        table: Where counts are kept.
        num_classes: Scores of the networks.
    """

    def __init__(self, table: Table, num_classes: int) -> None:
        self.table = table
        self.num_classes = num_classes
        self._counts = table.counts()

    def count(self, architecture: Architecture) -> tuple[int, int]:
        """MACs of one image and parameters, both of the deploy form; parts that the table lacks are counted.

        Raises:
            ArchitectureError: it cannot be built.
            UncountedOperatorError: a part runs an operator that nobody said how to count.
        """
        macs = params = 0
        for part, depth in parts_of(architecture, self.num_classes):
            count = self.count_of(part)
            macs += count.macs + (depth - 1) * count.more_macs
            params += count.params + (depth - 1) * count.more_params
        return macs, params

    def lacking(self, parts: Iterable[Part]) -> list[Part]:
        """What the table lacks of these, each once."""
        return [part for part in dict.fromkeys(parts) if part.key not in self._counts]

    def count_of(self, part: Part) -> Count:
        """A part's counts, counted now if the table lacks them."""
        found = self._counts.get(part.key)
        if found is None:
            found = self._counts[part.key] = _count(part)
            self.table.add_count(part.key, found)
        return found


class Predictor:
    """Latency of architectures on one target, from the times of their parts.

    Args:
        counter: Knows the parts' layouts, and the table.
        timer: Times what the table lacks.
    """

    def __init__(self, counter: Counter, timer: Timer) -> None:
        self.counter = counter
        self.timer = timer
        self.table = counter.table
        self._layouts = timer.setting.runtime in OF_TORCH
        self.context = context_of(timer)
        self._times = self.table.times(self.context)
        self._networks = self.table.networks(self.context)
        if timer.measured or self.table.reference_ms(self.context) is None:
            self.table.add_machine(self.context, timer.environment)
        self.recalibrate()

    def timings(self, architecture: Architecture) -> dict[Timing, float]:
        """What to time, and how often each is in the network."""
        found: dict[Timing, float] = {}
        for _, timing, often in self._placed(architecture):
            found[timing] = found.get(timing, 0.0) + often
        return found

    def _placed(self, architecture: Architecture) -> Iterator[tuple[int, Timing, float]]:
        """What to time at each place: 0 the stem, then the stages, last the head."""
        last = False
        for place, part, depth in placed_parts_of(architecture, self.counter.num_classes):
            after = self.lays_last(part, last)
            for timing, often in timings_of(part, depth, last, after):
                yield place, timing, often
            last = after

    def lays_last(self, part: Part, channels_last: bool) -> bool:
        """Whether a part hands channels last on, where its input comes so or not; files have no layout."""
        return self._layouts and self.counter.count_of(part).channels_last[channels_last]

    def missing(self, architectures: Iterable[Architecture]) -> list[Timing]:
        """What the table lacks of these."""
        return self.lacking(timing for each in architectures for timing in self.timings(each))

    def lacking(self, timings: Iterable[Timing]) -> list[Timing]:
        """What the table lacks of these, each once."""
        return [timing for timing in dict.fromkeys(timings) if timing.key not in self._times]

    def refuse(self, timings: Iterable[Timing], reason: str) -> None:
        """Keep that the target cannot run some parts."""
        for timing in timings:
            self.table.add_refusal(self.context, timing.key, reason)

    def knows(self, architecture: Architecture) -> bool:
        """Whether the calibration has learnt from the network."""
        return architecture.key in self._networks

    def fill(
        self,
        timings: Sequence[Timing],
        tell: Callable[[int], None] = lambda done: None,
        leave_out: Callable[[str], None] | None = None,
    ) -> None:
        """Time parts, a dozen at a time; each dozen is kept when it ends.

        Args:
            timings: What the table lacks.
            tell: Gets how many are done, after each dozen.
            leave_out: Gets a sentence about each part that the target cannot run; the others are timed all the same.

        Raises:
            CannotRun: without `leave_out`: the target cannot run one; the message names the part and the reason.
            TargetError: the target is gone.
        """
        for start in range(0, len(timings), TOGETHER):
            opened: dict[str, Any] = {}
            for timing in timings[start : start + TOGETHER]:
                try:
                    opened[timing.key] = self._open(timing)
                except CannotRun as error:
                    if leave_out is None:
                        raise
                    self.refuse([timing], str(error))
                    leave_out(str(error))
            if opened:
                opened |= self._open_call()
                self._keep(opened, self.timer.measure_opened(list(opened.values())))
            tell(min(start + TOGETHER, len(timings)))

    def measure(
        self, architecture: Architecture, *, seconds: float = SECONDS, with_parts: bool = True
    ) -> tuple[Latency, Prediction | None]:
        """Time the deploy form of a network for real, the parts that the table lacks in turns with it.

        Both are kept, and the calibration learns from the network; the prediction is that of before. Without
        parts, where the table lacks any, there is no prediction and nothing is learnt.

        Raises:
            CannotRun: the target cannot run it; the message names the part where one is at fault.
            TargetError: the target is gone.
        """
        group = self.missing([architecture]) if with_parts else []
        opened = {timing.key: self._open(timing) for timing in group}
        if opened:
            opened |= self._open_call()
        shape = (self.timer.setting.batch_size, 3, architecture.image_size, architecture.image_size)
        with torch.random.fork_rng(devices=[]):
            network = build(architecture, self.counter.num_classes).deploy()
        whole = self.timer.open(network, Input(shape))
        *times, latency = self.timer.measure_opened([*opened.values(), whole], seconds=seconds)
        self._keep(opened, times)
        if self.missing([architecture]):
            return latency, None
        foreseen = self.predict(architecture)
        parts = {timing.key: often for timing, often in self.timings(architecture).items()}
        timed = Timed(parts, latency.p50 / self.timer.reference_ms)
        self._networks[architecture.key] = timed
        self.table.add_network(self.context, architecture.key, timed)
        self.recalibrate()
        return latency, foreseen

    def predict(self, architecture: Architecture) -> Prediction:
        """Milliseconds of the deploy form; all its parts must be in the table (`missing`, `fill`)."""
        parts = {timing.key: often for timing, often in self.timings(architecture).items()}
        ratio, half = self._calibration.predict(self._sum(parts))
        ms, half = ratio * self.timer.reference_ms, half * self.timer.reference_ms
        return Prediction(ms, max(0.0, ms - half), ms + half)

    def shares(self, architecture: Architecture) -> list[float]:
        """The share of the time that stem, each stage (with its transition) and head take, by the parts' own times.

        All its parts must be in the table.
        """
        found = [0.0] * (len(architecture.stages) + 2)
        for place, timing, often in self._placed(architecture):
            found[place] += often * self._times[timing.key].ratio
        return [each / sum(found) for each in found]

    def recalibrate(self) -> None:
        """Learn from all networks that were timed in this context."""
        usable = [timed for timed in self._networks.values() if timed.parts.keys() <= self._times.keys()]
        self._calibration = Calibration([self._sum(timed.parts) for timed in usable], [timed.ratio for timed in usable])

    @property
    def num_networks(self) -> int:
        """How many networks the calibration knows."""
        return self._calibration.num_networks

    def _open_call(self) -> dict[str, Any]:
        """As little as can be called, ready to be timed, unless the table has it."""
        return {} if CALL in self._times else {CALL: self.timer.open(nn.ReLU(), Input((1, 1, 1, 1)))}

    def _open(self, timing: Timing) -> Any:
        shape = (self.timer.setting.batch_size, *timing.part.shape)
        try:
            return self.timer.open(timing.part.build(timing.depth), Input(shape, timing.channels_last))
        except CannotRun as error:
            raise CannotRun(f"{timing.part}: {error}") from None

    def _keep(self, keys: Iterable[str], latencies: Iterable[Latency]) -> None:
        reference = self.timer.reference_ms
        for key, found in zip(keys, latencies, strict=True):
            time = Time(found.p50 / reference, found.low / reference, found.high / reference, found.num_samples)
            self._times[key] = time
            self.table.add_time(self.context, key, time)

    def _sum(self, parts: dict[str, float]) -> Sum:
        by_kind: dict[str, float] = {}
        repeats = 0.0
        for key, often in parts.items():
            kind, time = _kind(key), self._times[key].ratio
            by_kind[kind] = by_kind.get(kind, 0.0) + often * time
            repeats += max(0.0, often - 1) * time
        call = self._times[CALL].ratio if CALL in self._times else 0.0
        return Sum(by_kind, sum(parts.values()) * call, repeats)


def context_of(timer: Timer) -> str:
    """Under which name the table keeps what a timer measures."""
    return f"{timer.fingerprint}-{code_digest()}"


def _kind(key: str) -> str:
    """The family of a body, else what kind of part it is: the first two words of the key."""
    kind, name = key[2:].split('"', 3)[0], key.split('"', 4)[3]
    return name if kind == "block" else kind


def _count(part: Part) -> Count:
    one, shape = part.build(), (1, *part.shape)
    macs, params = count_macs_of(one, shape), num_params(one)
    more_macs = more_params = 0
    if part.kind == "block":
        two = part.build(2)
        more_macs, more_params = count_macs_of(two, shape) - macs, num_params(two) - params
    return Count(macs, params, more_macs, more_params, (_ends_last(one, shape, False), _ends_last(one, shape, True)))


def _ends_last(module: nn.Module, shape: tuple[int, ...], channels_last: bool) -> bool:
    """Whether channels come out last in memory."""
    with torch.inference_mode():
        x = torch.zeros(shape)
        if channels_last and x.ndim == 4:
            x = x.to(memory_format=torch.channels_last)
        out = module(x)
    if out.ndim != 4 or out.is_contiguous():
        return False
    # Of one image the stride is of no use, but torch's convolutions take the layout for another where it is small.
    return bool(out.is_contiguous(memory_format=torch.channels_last) and out.stride(0) >= out[0].numel())
