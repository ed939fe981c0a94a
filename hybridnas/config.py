"""The settings of a search and of a full training: every flag of these commands is a field here."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, field_validator, model_validator

from hybridnas.errors import ConfigError

DEFAULT_SECONDS, DEFAULT_SECONDS_LARGE = 270.0, 3600.0

#: The largest image side that is small: the space for small images is meant for it, and several are trained at once.
TINY_LIMIT = 64

#: What proposes architectures, by name.
SAMPLERS = ("cost-aware", "tpe", "gp", "nsga2", "random")

_UNITS = {"h": 3600, "m": 60, "s": 1}


def parse_seconds(value: Any) -> Any:
    """'4m30s', '90s', '2h' or a number of seconds, as seconds; anything else goes back as it came."""
    if not isinstance(value, str):
        return value
    text = value.strip().lower()
    if re.fullmatch(r"(\d+(\.\d+)?[hms])+", text):
        return sum(float(number) * _UNITS[unit] for number, unit in re.findall(r"([\d.]+)([hms])", text))
    try:
        return float(text)
    except ValueError:
        raise ValueError(f"must be a duration such as 5m, 4m30s or 90s, got {value!r}") from None


def parse_counts(value: Any) -> Any:
    """'1,3,9' as (1, 3, 9); anything else goes back as it came."""
    if not isinstance(value, str):
        return value
    if not re.fullmatch(r"\d+(,\d+)*", value.strip()):
        raise ValueError(f"must be numbers of epochs such as 1,3,9, got {value!r}")
    return tuple(int(number) for number in value.split(","))


def parse_auto(value: Any) -> Any:
    """'auto' as None, '4' as 4; what is no text goes back as it came."""
    if not isinstance(value, str):
        return value
    text = value.strip().lower()
    if text != "auto" and not re.fullmatch(r"[+-]?\d+", text):
        raise ValueError(f"must be a number of processes or auto, got {value!r}")
    return None if text == "auto" else int(text)


def counts(flag: str, text: str) -> tuple[int, ...]:
    """The numbers that a flag was given.

    Raises:
        ConfigError: they are none.
    """
    try:
        found: tuple[int, ...] = parse_counts(text)
    except ValueError as error:
        raise ConfigError(f"{flag} {error}.") from None
    return found


Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1)]


class Settings(BaseModel):
    """What both have in common: wrong values are said in one sentence, and a resumed run keeps its own."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    #: What a resumed run may change.
    CHANGEABLE: ClassVar[tuple[str, ...]] = ()
    #: What is given without a flag, and what it is called.
    ARGUMENTS: ClassVar[dict[str, str]] = {}

    out: Path | None = None

    @field_validator("out")
    @classmethod
    def _out_is_a_folder(cls, out: Path | None) -> Path | None:
        if out and re.match(r"[A-Za-z][A-Za-z0-9+.-]+:/", str(out)):  # of a drive there is one letter
            raise ValueError("must be a folder of this machine, which may be mounted, and no address")
        return out

    @classmethod
    def checked(cls, **fields: Any) -> Self:
        """Make one from flags; a wrong value is a ConfigError that names the flag."""
        try:
            return cls(**fields)
        except ValidationError as error:
            # Where one value or several may stand, the complaint that goes into the value says more.
            first = max(error.errors(), key=lambda each: len(each["loc"]))
            problem = first["msg"].removeprefix("Value error, ")
            # What concerns two flags names the one to change itself.
            name, problem = (first["loc"][0], problem) if first["loc"] else problem.split(": ", 1)
            shown = f", got {first['input']}" if first["loc"] and "got" not in problem else ""
            raise ConfigError(f"{cls._flag(str(name))}: {problem[0].lower()}{problem[1:]}{shown}.") from None

    def check_resumable(self, stored: Self) -> None:
        """Refuse to go on with a run whose settings differ from those given now.

        Raises:
            ConfigError: names the first flag that was given with another value.
        """
        for name in sorted(self.model_fields_set - {*self.CHANGEABLE, "out"}):
            now, then = getattr(self, name), getattr(stored, name)
            if now != then:
                *most, last = [*map(self._flag, self.CHANGEABLE)] or ["nothing"]
                allowed = f"{', '.join(most)} and {last}" if most else last
                raise ConfigError(
                    f"{self._flag(name)} was {_shown(then)} in this run and cannot become {_shown(now)}: "
                    f"--resume may change {'only ' if self.CHANGEABLE else ''}{allowed}."
                )

    @classmethod
    def _flag(cls, name: str) -> str:
        return cls.ARGUMENTS.get(name, "--" + name.replace("_", "-"))


class SearchConfig(Settings):
    """What to search, on which data, for which device, and when to stop. Budgets that are None do not bind.

    Each flag of `python -m hybridnas.search` is a field; README's table says what they mean. Frozen.

    >>> config = SearchConfig(space="tiny", data="synthetic", budget_ms=10, time="4m30s", seed=7)
    >>> config.time
    270.0
    >>> config.model_copy(update={"time": None, "trials": 50}).trials
    50
    >>> SearchConfig(target=("cpu", "ssh://pi@edge"), budget_ms=(10, 40)).budget_on(1)
    40.0
    >>> SearchConfig.model_validate_json(config.model_dump_json()) == config
    True
    >>> SearchConfig.checked(budget_ms=0)
    Traceback (most recent call last):
    hybridnas.errors.ConfigError: --budget-ms: input should be greater than 0, got 0.
    """

    CHANGEABLE = ("trials", "time", "workers", "executor", "ray_address", "storage", "baselines", "baseline_weights")

    space: str | None = None
    around: str | None = None
    data: str = "synthetic"
    budget_ms: Positive | tuple[Positive, ...] | None = None
    budget_macs: Positive | None = None
    budget_params: Positive | None = None
    trials: Count | None = None
    time: Annotated[Positive | None, BeforeValidator(parse_seconds)] = None
    epochs: Count | None = None
    rungs: Annotated[tuple[Count, ...] | None, BeforeValidator(parse_counts)] = None
    image_size: Annotated[int, Field(ge=8)] | None = None
    batch_size: Annotated[int, Field(ge=2)] | None = None
    train_images: Count = 4000
    max_bad: Annotated[int, Field(ge=0)] = 10
    flip: bool = False
    objective: Literal["front", "accuracy", "front+macs", "front+params"] = "front"
    enqueue: tuple[str, ...] = ()
    sampler: Literal["auto", "cost-aware", "tpe", "gp", "nsga2", "random"] = "auto"
    device: str | None = None
    target: str | tuple[str, ...] | None = None
    runtime: str = "torch"
    precision: str = "fp32"
    latency_batch_size: Count = 1
    threads: Count | None = None
    frozen_table: bool = False
    baselines: Literal["zoo", "timm", "none"] = "zoo"
    baseline_weights: str | None = None
    workers: Annotated[Count | None, BeforeValidator(parse_auto)] = 1  # None, or "auto": as many as pay
    executor: Literal["local", "ray"] = "local"
    ray_address: str | None = None
    storage: str | None = None
    study: str | None = None
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0

    @property
    def targets(self) -> tuple[str, ...]:
        """What is timed; empty for the best device here."""
        return (self.target,) if isinstance(self.target, str) else self.target or ()

    def budget_on(self, i: int) -> float | None:
        """The bound in milliseconds for target `i`, counted from 0."""
        return self.budget_ms[i] if isinstance(self.budget_ms, tuple) else self.budget_ms

    @model_validator(mode="after")
    def _one_budget_a_target(self) -> SearchConfig:
        if len(set(self.targets)) < len(self.targets):
            raise ValueError("target: names a device twice")
        if isinstance(self.budget_ms, tuple) and len(self.budget_ms) != len(self.targets):
            raise ValueError(
                f"budget-ms: give one, or as many as --target, got {len(self.budget_ms)} for {len(self.targets) or 1}"
            )
        return self

    @model_validator(mode="after")
    def _a_study_lies_in_a_storage(self) -> SearchConfig:
        if self.study is not None and self.storage is None:
            raise ValueError("study: names a study on a server, which --storage must say")
        return self

    @model_validator(mode="after")
    def _rungs_rise(self) -> SearchConfig:
        if self.rungs and list(self.rungs) != sorted(set(self.rungs)):
            raise ValueError(f"rungs: must rise, got {','.join(map(str, self.rungs))}")
        return self

    @model_validator(mode="after")
    def _sampler_takes_the_objective(self) -> SearchConfig:
        if self.sampler == "cost-aware" and "+" in self.objective:
            raise ValueError(f"sampler: cost-aware knows no third objective, which {self.objective} has; take tpe")
        return self


class TrainConfig(Settings):
    """Which architecture to train to the end, on which data, and from which weights.

    `learning_rate` and `augment` that are None depend on where the weights come from and how long the training is.
    """

    ARGUMENTS = {"architecture": "ARCH"}

    architecture: str = ""  # with --resume, the training's
    data: str | None = None  # a run's own, or the embedded images
    epochs: Count = 30
    pretrained: str | None = None
    freeze_backbone: bool = False
    batch_size: Annotated[int, Field(ge=2)] = 64
    learning_rate: Positive | None = None
    augment: Literal["none", "light", "strong"] | None = None
    flip: bool = False
    image_size: Annotated[int, Field(ge=8)] | None = None
    train_images: Count | None = None
    max_bad: Annotated[int, Field(ge=0)] = 10
    device: str | None = None
    loaders: Annotated[int, Field(ge=0)] | None = None
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    split_seed: Annotated[int, Field(ge=0)] | None = None  # of a run's own data the run's, else `seed`; no flag


def _shown(value: object) -> str:
    return "not given" if value is None else str(value)
