"""A space as its file says it: the sections and what each may hold."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from hybridnas.architecture import Value
from hybridnas.model import MAX_COUNT


def _one_or_more(value: Any) -> Any:
    return value if isinstance(value, list) else [value]


def plain(value: Any) -> Any:
    """A whole float becomes the integer, as in an architecture's options."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _options(value: Any) -> Any:
    return [plain(v) for v in _one_or_more(value)]


_Count = Annotated[int, Field(ge=1, le=MAX_COUNT)]
_Depth = Annotated[int, Field(ge=0, le=MAX_COUNT)]
_Names = Annotated[list[str], BeforeValidator(_one_or_more), Field(min_length=1)]
_Counts = Annotated[list[_Count], BeforeValidator(_one_or_more), Field(min_length=1)]
_Depths = Annotated[list[_Depth], BeforeValidator(_one_or_more), Field(min_length=1)]
_Values = Annotated[list[Value], BeforeValidator(_options), Field(min_length=1)]
_Options = dict[str, dict[str, _Values]]  # part -> option -> values


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class StemSpace(_Part):
    """The stems to choose from."""

    type: _Names
    width: _Counts


class StageSpace(_Part):
    """The choices of one stage. Transition `none` keeps the width that comes in and takes stride 1.

    Its own `blocks` and `transitions` replace the file's for this stage, option by option.
    """

    transition: _Names
    block: _Names
    depth: _Depths
    width: _Counts
    stride: _Counts = [2]
    blocks: _Options = {}
    transitions: _Options = {}

    @property
    def can_be_nothing(self) -> bool:
        """Whether a sample may leave the stage out."""
        return "none" in self.transition and 0 in self.depth


class SpaceFile(_Part):
    """The whole file, as written."""

    image_size: _Counts
    stem: StemSpace
    stages: Annotated[list[StageSpace], Field(min_length=1)]
    stems: _Options = {}
    blocks: _Options = {}
    transitions: _Options = {}
    heads: _Options = {}
    head: _Names = ["linear"]
    rules: list[dict[str, int]] = []
    holds: _Names = []

    def options(self, section: str, part: str, stage: StageSpace | None = None) -> dict[str, list[Value]]:
        """The options of `part` that the file names, each with its values; those of `stage` go before the file's."""
        own = getattr(stage, section) if stage else {}
        return {**getattr(self, section).get(part, {}), **own.get(part, {})}
