"""A timer that times nothing: figures that repeat exactly."""

from collections.abc import Sequence

from torch import nn

from hybridnas.cost.latency import Latency
from hybridnas.cost.runtimes import Input, Setting
from hybridnas.errors import CannotRun
from hybridnas.model import HybridNet, num_params


class MadeUpTimer:
    """Milliseconds in proportion to the parameters; a whole network's are `factor` times those of its parts.

    `cannot` says which inputs the target cannot run, by channels in; `groups` holds what took turns together.
    """

    def __init__(
        self,
        target: str = "cpu",
        *,
        factor: float = 1.0,
        cannot: Sequence[int] = (),
        runtime: str = "torch",
        precision: str = "fp32",
        batch_size: int = 1,
        threads: int = 1,
        reference: str = "large",
    ) -> None:
        self.target = target
        self.setting = Setting(runtime, precision, batch_size, threads, reference)
        self.reference_ms = 8.0
        self.factor = factor
        self.cannot = cannot
        self.measured = True
        self.groups: list[list[tuple[nn.Module, Input]]] = []

    @property
    def fingerprint(self) -> str:
        return f"{self.target}-{self.setting.runtime}-{self.setting.batch_size}"

    @property
    def environment(self) -> dict[str, object]:
        return {**vars(self.setting), "target": self.target, "cpu": "Abacus 2", "versions": {"beads": "1.0"}}

    def open(self, model: nn.Module, given: Input) -> tuple[nn.Module, Input]:
        if given.shape[1] in self.cannot:
            raise CannotRun("too few beads")
        return model, given

    def measure_opened(self, opened: Sequence[tuple[nn.Module, Input]], **_: object) -> list[Latency]:
        self.groups.append(list(opened))
        every = [(num_params(m) + 100) / 1e3 * (self.factor if isinstance(m, HybridNet) else 1) for m, _ in opened]
        return [Latency(ms, 1.1 * ms, 0.99 * ms, 1.01 * ms, ms, 21) for ms in every]
