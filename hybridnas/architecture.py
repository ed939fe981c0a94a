"""An architecture in words: a stem, a row of stages and a head. Describes only; `build` makes the network.

The layout string generalises the C-C-T-T of CoAtNet (Dai et al., 2021, arXiv:2106.04803, section 2.2.2)
to any number of stages and any family.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache, cached_property
from typing import Any

from pydantic import ConfigDict, TypeAdapter, ValidationError

from hybridnas.drawing import Group, draw
from hybridnas.errors import ArchitectureError, first_invalid
from hybridnas.palette import FAMILY_COLOURS

Value = bool | int | float | str
Options = Mapping[str, Value]

#: The letter of each block family in a layout string: C convolution (or pooling), T attention ("transformer"), alone
#: or together with convolution.
LETTERS = {
    "mbconv": "C",
    "convnext": "C",
    "bottleneck": "C",
    "repmixer": "C",
    "pool": "C",
    "window": "T",
    "global": "T",
    "linear": "T",
    "mobilevit": "T",
    "levit": "T",
    "lgl": "T",
    "parallel": "T",
}

#: By how much each stem divides the resolution (kept here, as the letters are, since drawing one must cost no torch).
STEM_STRIDES = {
    "conv": 2,
    "conv3x3": 2,
    "resnet": 4,
    "efficientformer": 4,
    "levit": 16,
    "mobileone": 4,
    "mixformer": 4,
    "patch2": 2,
    "patch4": 4,
    "patch14": 14,
    "patch16": 16,
}

_STRICT = ConfigDict(extra="forbid", strict=True)


def _options(options: Options) -> dict[str, Value]:
    """Sort the names and write whole floats as integers, so that 4 and 4.0 give one key."""
    return {
        name: int(value) if isinstance(value, float) and value.is_integer() else value
        for name, value in sorted(options.items())
    }


@dataclass(frozen=True)
class Stem:
    """What turns the image (B, 3, H, W) into the first feature map of `width` channels.

    `type` is a key of `hybridnas.blocks.stems.STEMS`, and `options` are that stem's keyword arguments; those left out
    take its defaults. blocks/README.md lists them all.

    >>> stem = Stem("conv", width=16, options={"act": "silu"})
    >>> stem.width, stem.options["act"]
    (16, 'silu')
    >>> Stem("patch4", width=0)
    Traceback (most recent call last):
    ValueError: stem width must be at least 1, got 0
    """

    __pydantic_config__ = _STRICT
    type: str
    width: int
    options: Options = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        _at_least("stem width", self.width, 1)
        object.__setattr__(self, "options", _options(self.options))


@dataclass(frozen=True)
class Transition:
    """What carries one width and resolution to the next; a resolution r becomes ceil(r / stride).

    It is a choice of its own, since where two families meet decides much. `type` is a key of
    `hybridnas.blocks.transitions.TRANSITIONS`.

    >>> halves = Transition("conv")
    >>> halves.stride
    2
    >>> keeps = Transition("none", stride=1)  # the stage goes on at the same width and resolution
    >>> Transition("mbconv", options={"expand": 4, "se": True}) == Transition("mbconv", 2, {"se": True, "expand": 4.0})
    True
    >>> Transition("conv", stride=3)
    Traceback (most recent call last):
    ValueError: a transition's stride must be 1 or 2, got 3
    """

    __pydantic_config__ = _STRICT
    type: str
    stride: int = 2
    options: Options = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        if self.stride not in (1, 2):
            raise ValueError(f"a transition's stride must be 1 or 2, got {self.stride}")
        object.__setattr__(self, "options", _options(self.options))


@dataclass(frozen=True)
class Stage:
    """A transition, then `depth` blocks of one family at `width` channels. Depth 0 is the transition alone.

    `block` is a key of `hybridnas.blocks.BLOCKS`, and `options` are that family's keyword arguments.

    >>> stage = Stage(Transition("patch"), "window", depth=2, width=64, options={"window": 4, "head_dim": 16})
    >>> stage.block, stage.depth, stage.width
    ('window', 2, 64)
    >>> from dataclasses import replace
    >>> replace(stage, block="global", options={"head_dim": 32}).options["head_dim"]
    32
    """

    __pydantic_config__ = _STRICT
    transition: Transition
    block: str
    depth: int
    width: int
    options: Options = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        _at_least("stage depth", self.depth, 0)
        _at_least("stage width", self.width, 1)
        object.__setattr__(self, "options", _options(self.options))


@dataclass(frozen=True)
class Head:
    """What turns the last feature map into class scores. `type` is a key of `hybridnas.blocks.heads.HEADS`.

    >>> Head() == Head("linear")
    True
    >>> from hybridnas import zoo
    >>> zoo.load("mobilenetv2_100").head.type  # a 1x1 convolution, pooling, and then the classifier
    'conv'
    """

    __pydantic_config__ = _STRICT
    type: str = "linear"
    options: Options = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "options", _options(self.options))


@dataclass(frozen=True)
class Architecture:
    """A whole network in words: frozen, hashable, the same key on every machine. A notebook draws it.

    Attributes:
        image_size: Pixels a side; what attention is built for.
        stem: Makes the first feature map.
        stages: At least one.
        head: Makes class scores of the last feature map.

    >>> convolution = Stage(Transition("conv"), "mbconv", depth=2, width=32)
    >>> attention = Stage(Transition("patch"), "global", depth=2, width=64, options={"head_dim": 16})
    >>> hybrid = Architecture(32, Stem("conv", 16), (convolution, attention))
    >>> hybrid.layout, hybrid.families
    ('CT', 'mbconv-global')
    >>> hybrid.resolutions  # after the stem and each stage
    (16, 8, 4)
    >>> Architecture.from_json(hybrid.to_json()) == hybrid
    True
    >>> len(hybrid.key), hybrid.key == Architecture(32, Stem("conv", 16), (convolution,)).key
    (16, False)
    """

    __pydantic_config__ = _STRICT
    image_size: int
    stem: Stem
    stages: tuple[Stage, ...]
    head: Head = Head()

    def __post_init__(self) -> None:
        _at_least("image_size", self.image_size, 1)
        if not self.stages:
            raise ValueError("an architecture needs at least one stage")
        object.__setattr__(self, "stages", tuple(self.stages))

    @property
    def layout(self) -> str:
        """One letter a stage that has blocks: 'CCTT' for CoAtNet."""
        return "".join(LETTERS.get(stage.block, "?") for stage in self.stages if stage.depth)

    @property
    def families(self) -> str:
        """The block family of each stage that has blocks, in words: 'mbconv-mbconv-global'."""
        return "-".join(stage.block for stage in self.stages if stage.depth)

    @cached_property
    def main_family(self) -> str:
        """The block family of most of its blocks."""
        blocks: Counter[str] = Counter()
        for stage in self.stages:
            blocks[stage.block] += stage.depth
        return blocks.most_common(1)[0][0]

    @cached_property
    def key(self) -> str:
        """16 hexadecimal digits of the content's SHA-256: the same on every machine."""
        text = json.dumps(self, default=_fields, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    @property
    def resolutions(self) -> tuple[int | None, ...]:
        """Pixels a side of the feature map after the stem and after each stage; None where the stem is unknown."""
        stride = STEM_STRIDES.get(self.stem.type)
        found: list[int | None] = [stride and math.ceil(self.image_size / stride)]
        for stage in self.stages:
            found.append(found[-1] and math.ceil(found[-1] / stage.transition.stride))
        return tuple(found)

    def to_json(self, *, indent: int | None = 2) -> str:
        """Write the description as JSON text."""
        return json.dumps(self, default=_fields, indent=indent)

    @classmethod
    def from_json(cls, text: str) -> Architecture:
        """Read what `to_json` wrote.

        Raises:
            ArchitectureError: the text is not JSON, a field is missing or unknown, or a number is out of range.
        """
        try:
            return _adapter().validate_json(text)
        except ValidationError as error:
            raise ArchitectureError(f"Not an architecture: {first_invalid(error)}.") from None

    def _repr_html_(self) -> str:
        """The drawing that a notebook shows."""
        first, *others = self.resolutions
        groups = [Group(f"stem {self.stem.type}", 1, self.stem.width, first, about=_words(self.stem.options))]
        for stage, resolution in zip(self.stages, others, strict=True):
            change = stage.transition
            group = Group(
                stage.block if stage.depth else "",
                stage.depth,
                stage.width,
                resolution,
                FAMILY_COLOURS.get(stage.block, "#777777"),
                "" if change.type == "none" else change.type,
                change.stride,
                _words(stage.options),
            )
            groups.append(group)
        groups.append(Group(f"head {self.head.type}", 1, None, None, about=_words(self.head.options)))
        num_blocks = sum(stage.depth for stage in self.stages)
        subtitle = f"{self.image_size} px, {num_blocks} block{'s' * (num_blocks != 1)}, key {self.key}"
        return draw("-".join(self.layout) or "no blocks", subtitle, groups)


def _fields(part: Any) -> dict[str, Any]:
    """A dataclass as JSON has it; `asdict`, which copies all that is in it, takes three times as long."""
    return {name: getattr(part, name) for name in part.__dataclass_fields__}


def _words(options: Options) -> str:
    """'expand 4, se True'."""
    return ", ".join(f"{name} {value}" for name, value in options.items())


@cache  # takes 10 ms to make
def _adapter() -> TypeAdapter[Architecture]:
    return TypeAdapter(Architecture)


def _at_least(name: str, value: int, least: int) -> None:
    if value < least:
        raise ValueError(f"{name} must be at least {least}, got {value}")
