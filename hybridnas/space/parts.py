"""Which parts fit where: what a stem, family, transition or head says to a width, a resolution and options."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any

import torch

from hybridnas.architecture import LETTERS, Value
from hybridnas.blocks import BLOCKS, option_defaults
from hybridnas.blocks.heads import HEADS
from hybridnas.blocks.stems import STEMS
from hybridnas.blocks.transitions import TRANSITIONS

#: The sections of a space's file that hold options, and the table of the parts that each is about.
TABLES: dict[str, Mapping[str, Any]] = {
    "stems": STEMS,
    "blocks": BLOCKS,
    "transitions": TRANSITIONS,
    "heads": HEADS,
}


def problem(section: str, name: str, options: Mapping[str, Value], *numbers: int) -> str | None:
    """Why the part cannot be made, or None where it can; nothing is allocated.

    Args:
        section: One of `TABLES`.
        name: The part.
        options: Those that are not left at their defaults.
        numbers: What the part's constructor takes first: width and image size of a stem, width and resolution of a
            family, both widths, stride and resolution of a transition, the width of a head.
    """
    if section == "blocks" and LETTERS.get(name) == "C":
        numbers = (numbers[0], 1)  # convolutions are the same at every resolution: once is enough
    return _problem(TABLES[section][name], section, tuple(options.items()), numbers)


@lru_cache(maxsize=2**17)
def _problem(part: Any, section: str, options: tuple[tuple[str, Value], ...], numbers: tuple[int, ...]) -> str | None:
    # A part's `check` raises what its constructor would, a thousand times faster than the meta device makes layers.
    check = getattr(part, "check", None)
    try:
        if check:
            check(*numbers, **{**option_defaults(part), **dict(options)})
        else:
            with torch.device("meta"):
                part(*_arguments(section, numbers), **dict(options))
    except (ValueError, TypeError, OverflowError, RuntimeError) as error:
        return str(error).partition("\n")[0].rstrip(".")  # torch adds a stack trace
    return None


def _arguments(section: str, numbers: tuple[int, ...]) -> tuple[int, ...]:
    """The constructor's positional arguments: a family has one block, a head two classes."""
    if section == "blocks":
        return numbers[0], 1, numbers[1]
    return (*numbers, 2) if section == "heads" else numbers


def combinations(options: Mapping[str, Sequence[Value]]) -> Iterator[dict[str, Value]]:
    """Every choice of one value an option."""
    for values in itertools.product(*options.values()):
        yield dict(zip(options, values, strict=True))
