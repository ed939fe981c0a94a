"""The space around one design: every stage's family, options, depth and width may move one step."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
import yaml

from hybridnas.architecture import Architecture, Stage, Value
from hybridnas.blocks import BLOCKS, compat_options, option_defaults
from hybridnas.model import build
from hybridnas.space.file import plain
from hybridnas.space.parts import combinations, problem
from hybridnas.space.points import ATTENDS_TO_ALL, stem_resolution, without_nothing
from hybridnas.space.space import SearchSpace

#: Families one step apart: what mixes positions changes, and little else.
KIN = (
    ("bottleneck", "mbconv"),
    ("mbconv", "convnext"),
    ("convnext", "repmixer"),
    ("repmixer", "pool"),
    ("lgl", "window"),
    ("window", "global"),
    ("global", "linear"),
    ("global", "levit"),
    ("lgl", "parallel"),
    ("mobilevit", "parallel"),
    ("mobilevit", "global"),
    ("window", "parallel"),
    # From convolution to attention, where designs of the literature stand on both sides: CoAtNet, BoTNet, FastViT,
    # EfficientFormer, EfficientViT; and ConvNeXt is Swin with its windows made convolutions.
    ("mbconv", "global"),
    ("bottleneck", "global"),
    ("repmixer", "global"),
    ("pool", "global"),
    ("mbconv", "linear"),
    ("convnext", "window"),
)

# 56 x 56: beyond it the attention matrix alone is 40 MB a head, and no design of the literature goes there.
MAX_GLOBAL_TOKENS = 3136
# A family's options stop moving when they have so many combinations: each is checked at each width.
MAX_COMBINATIONS = 36


def around(name: str, architecture: Architecture) -> SearchSpace:
    """The neighbours of a design: a space that holds `architecture` and whose every sample can be built.

    Image size, stem, transitions and head stay, but for the stem's width where the first stage keeps that. Depths move
    by one block, widths by about a quarter to a multiple of 8 that the design's own parts can take, families to their
    `KIN`, options to the next number; compat options stay.
    The space's `text` is YAML like any other space's.

    Raises:
        ArchitectureError: the design itself cannot be built.
    """
    with torch.device("meta"):
        build(architecture)
    stem, head = architecture.stem, architecture.head
    stages = without_nothing(architecture.stages)
    stem_widths, *widths = _widths(architecture, stages)
    content: dict[str, Any] = {
        "image_size": architecture.image_size,
        "stem": {"type": stem.type, "width": list(stem_widths)},
        "stages": _stages(architecture, stages, widths),
        "head": head.type,
    }
    if stem.options:
        content["stems"] = {stem.type: dict(stem.options)}
    if head.options:
        content["heads"] = {head.type: dict(head.options)}
    text = yaml.safe_dump(content, sort_keys=False, default_flow_style=None, width=120)
    label = " ".join(name.split())
    return SearchSpace.parse(f"# One step around {label}.\n{text}", name=f"around_{label}", file=f"around {label}")


def _stages(
    architecture: Architecture, stages: Sequence[Stage], all_widths: Sequence[Sequence[int]]
) -> list[dict[str, Any]]:
    resolution = stem_resolution(architecture.image_size, architecture.stem.type)
    content = []
    for stage, widths in zip(stages, all_widths, strict=True):
        resolution = math.ceil(resolution / stage.transition.stride)
        blocks = _families(stage, widths, resolution)
        said: dict[str, Any] = {
            "transition": stage.transition.type,
            "stride": stage.transition.stride,
            "block": list(blocks),
            "depth": [depth for depth in (stage.depth - 1, stage.depth, stage.depth + 1) if depth]
            if stage.depth
            else 0,
            "width": list(widths),  # one list in two places would be an alias in YAML
        }
        if any(blocks.values()):
            said["blocks"] = {family: options for family, options in blocks.items() if options}
        if stage.transition.options:
            said["transitions"] = {stage.transition.type: dict(stage.transition.options)}
        content.append(said)
    return content


def _widths(architecture: Architecture, stages: Sequence[Stage]) -> list[list[int]]:
    """The widths of the stem, then of each stage: its own, and one below and one above that its neighbours can take.

    Stages with transition `none` have the width that arrives. The stem's moves where such a stage is the first.
    """
    stem, head = architecture.stem, architecture.head
    resolutions = [stem_resolution(architecture.image_size, stem.type)]
    for stage in stages:
        resolutions.append(math.ceil(resolutions[-1] / stage.transition.stride))
    keeps = [stage.transition.type == "none" for stage in stages]

    def rest_fits(first: int, width: int) -> bool:
        """Whether the stages from `first` on that keep the width, and the joint or head after them, can take it."""
        end = next((k for k in range(first, len(stages)) if not keeps[k]), len(stages))
        problems = [_body_problem(stages[k], width, resolutions[k + 1]) for k in range(first, end)]
        if end < len(stages):
            problems.append(_joint_problem(stages[end], width, stages[end].width, resolutions[end]))
        else:
            problems.append(problem("heads", head.type, head.options, width))
        return not any(problems)

    def stem_fits(width: int) -> bool:
        return not problem("stems", stem.type, stem.options, width, architecture.image_size) and rest_fits(0, width)

    arriving = _near(stem.width, stem_fits) if keeps[0] else [stem.width]
    found = [arriving]
    for i, stage in enumerate(stages):
        if not keeps[i]:

            def fits(width: int, i: int = i, arriving: Sequence[int] = tuple(arriving)) -> bool:
                into = [_joint_problem(stages[i], before, width, resolutions[i]) for before in arriving]
                inside = _body_problem(stages[i], width, resolutions[i + 1])
                return not any((*into, inside)) and rest_fits(i + 1, width)

            arriving = _near(stage.width, fits)
        found.append(arriving)
    return found


def _near(width: int, fits: Callable[[int], bool]) -> list[int]:
    """`width`, and the fitting multiples of 8 nearest to three and to five quarters of it."""

    def nearest(goal: float, multiples: Iterable[int]) -> list[int]:
        ordered = sorted(multiples, key=lambda multiple: abs(multiple - goal))
        return next(([multiple] for multiple in ordered if fits(multiple)), [])

    below = nearest(0.75 * width, [m for m in range(8, width, 8) if 2 * m >= width])
    above = nearest(1.25 * width, [m for m in range(8, 2 * width + 1, 8) if m > width])
    return [*below, width, *above]


def _joint_problem(stage: Stage, in_width: int, width: int, resolution: int) -> str | None:
    joint = stage.transition
    return problem("transitions", joint.type, joint.options, in_width, width, joint.stride, resolution)


def _body_problem(stage: Stage, width: int, resolution: int) -> str | None:
    return problem("blocks", stage.block, stage.options, width, resolution) if stage.depth else None


def _families(stage: Stage, widths: Sequence[int], resolution: int) -> dict[str, dict[str, list[Value]]]:
    """The stage's family and its kin, each with its options: those that can be built at every width."""
    if not stage.depth:
        return {stage.block: {}}

    def legal(family: str, options: Mapping[str, Value]) -> bool:
        return not any(problem("blocks", family, options, width, resolution) for width in widths)

    found = {stage.block: _own_options(stage, lambda options: legal(stage.block, options))}
    for family in BLOCKS:
        if (family, stage.block) not in KIN and (stage.block, family) not in KIN:
            continue
        if family in ATTENDS_TO_ALL and resolution**2 > MAX_GLOBAL_TOKENS:
            continue
        # The widths are multiples of the design's head_dim, not of the kin's default.
        kept = {o: v for o, v in stage.options.items() if o == "head_dim" and o in option_defaults(BLOCKS[family])}
        if legal(family, kept):
            found[family] = {option: [value] for option, value in kept.items()}
    return found


def _own_options(stage: Stage, legal: Callable[[Mapping[str, Value]], bool]) -> dict[str, list[Value]]:
    """The design's options, and beside each number or switch its next values, as long as all go with all."""
    part = BLOCKS[stage.block]
    values: dict[str, list[Value]] = {option: [value] for option, value in stage.options.items()}
    for option, value in {**option_defaults(part), **stage.options}.items():
        if option in compat_options(part):
            continue
        now: list[Value] = [plain(value)]
        for side in _steps(option, now[0]):
            others = math.prod(len(held) for name, held in values.items() if name != option)
            if others * (len(now) + 1) > MAX_COMBINATIONS:
                break
            now += next(([step] for step in side if all(map(legal, combinations({**values, option: [step]})))), [])
        if len(now) > 1:
            values[option] = now if isinstance(value, bool) else sorted(now)
    return values


def _steps(option: str, value: Value) -> list[list[Value]]:
    """What may stand beside a value: the other truth, or the numbers below and those above, the best first."""
    if isinstance(value, bool):
        return [[not value]]
    if isinstance(value, str):
        return []
    if option.endswith("dim"):
        return [[value // 2] if value % 2 == 0 else [], [2 * value]]
    if option.endswith("ratio"):
        return [[value / 2], [2 * value]]
    least = 3 if option.endswith("kernel") else 1
    # A step of two where one is not legal: kernels are odd.
    return [[value - step for step in (1, 2) if value - step >= least], [value + 1, value + 2]]
