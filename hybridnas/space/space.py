"""`SearchSpace`: a set of architectures, read from a file or a text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from hybridnas.architecture import LETTERS, Architecture, Value
from hybridnas.blocks import BLOCKS
from hybridnas.errors import SpaceError
from hybridnas.space.checks import check_names, check_parts
from hybridnas.space.encoding import encode
from hybridnas.space.file import SpaceFile
from hybridnas.space.points import Choose, draw, num_points, sample
from hybridnas.space.shipped import find_space
from hybridnas.space.source import Source


@dataclass(frozen=True)
class SearchSpace:
    """A set of architectures. Make one with `SearchSpace.load`; `name` is the file's stem, `text` its content.

    >>> import random
    >>> space = SearchSpace.load("tiny")  # or the path of your own YAML file
    >>> space.size > 10**9
    True
    >>> space.sample(lambda name, values: values[0]).layout  # the first of everything
    'CCCC'
    >>> generator = random.Random(0)
    >>> drawn = space.sample(lambda name, values: generator.choice(values))
    >>> choices = space.encode(drawn)  # by name, as 'stage1.depth'
    >>> space.sample(lambda name, values: choices[name]) == drawn
    True
    >>> hybrid = space.design(["mbconv", "mbconv", "global", "global"])
    >>> hybrid.layout if hybrid else "not legal here"
    'CCTT'
    """

    name: str
    text: str
    file: SpaceFile

    @classmethod
    def load(cls, name_or_path: str | Path) -> SearchSpace:
        """Read and check a space: a shipped one by name, any other by the path of its YAML file.

        Every combination of part, width, resolution and options that a sample can hold is checked.

        Raises:
            SpaceError: no such file, or anything wrong in it, with file, line, key and the allowed values.
        """
        path = find_space(name_or_path)
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise SpaceError(f"The space {path} cannot be read: {error}.") from None
        return cls.parse(text, name=path.stem, file=str(path))

    @classmethod
    def parse(cls, text: str, *, name: str, file: str) -> SearchSpace:
        """Read and check a space from YAML text; `file` is what error messages call it."""
        source = Source(text, file)
        space = cls(name, text, source.read())
        check_names(space.file, source)
        check_parts(space.file, source)
        return space

    def with_image_size(self, image_size: int) -> SearchSpace:
        """The same space at one image size, checked again.

        Raises:
            SpaceError: some choice of the space is impossible at that size.
        """
        space = replace(self, file=self.file.model_copy(update={"image_size": [image_size]}))
        check_parts(space.file, Source(self.text, f"{self.name} at image size {image_size}"))
        return space

    @property
    def holds(self) -> tuple[str, ...]:
        """The published designs that the file says are points of this space."""
        return tuple(self.file.holds)

    @cached_property
    def size(self) -> int:
        """How many different points the space has; where stages can be left out, two may make one architecture."""
        return num_points(self.file)

    def sample(self, choose: Choose) -> Architecture:
        """Make one architecture; `choose` is asked for each open choice by name, with its legal values.

        A stage that does nothing (transition `none`, depth 0) is left out of the architecture.
        """
        return sample(self.file, choose)

    def encode(self, architecture: Architecture) -> dict[str, Value]:
        """The choices that make `architecture`: name to value, for `sample`.

        Options that the space leaves open and the architecture leaves out count as the part's defaults. Where the
        space has more stages, those that can do nothing stand empty, the later the better.

        Raises:
            SpaceError: the architecture is not a point of this space; the sentence names the first choice that differs.
        """
        return encode(self.file, self.name, architecture)

    def design(self, families: Sequence[str], *, size: float = 0.5) -> Architecture | None:
        """The architecture with these families, stage by stage, or None where one is not legal.

        Args:
            families: One a stage.
            size: 0 takes the smallest of each list of numbers, 1 the largest, 0.5 the middle; depth 0 is passed over
                where the stage has another. Of words and of true/false the first in the file is taken.
        """
        stages = self.file.stages
        if len(families) != len(stages) or any(f not in s.block for f, s in zip(families, stages, strict=True)):
            return None
        legal = True

        def choose(name: str, values: Sequence[Any]) -> Any:
            nonlocal legal
            stage, _, choice = name.partition(".")
            if choice.startswith("block"):
                family = families[int(stage.removeprefix("stage")) - 1]
                legal = legal and family in values
                return family
            if choice == "depth":
                values = [value for value in values if value] or values
            if all(type(value) in (int, float) for value in values):
                return sorted(values)[round(size * (len(values) - 1))]
            return values[0]

        architecture = draw(self.file, choose)
        return architecture if legal else None

    def layouts(self) -> dict[str, tuple[str, ...]]:
        """The known layouts that this space can say: a name, and the family of each stage.

        CoAtNet's ablation (arXiv:2106.04803, table 1) compares C-C-C-C to C-T-T-T; each is a row of one convolution
        family followed by one attention family. Added are the layouts of one family throughout.
        """
        num_stages = len(self.file.stages)
        convolutions = [family for family in BLOCKS if LETTERS[family] == "C"]
        attentions = ["global", "window", *(family for family in BLOCKS if LETTERS[family] == "T")]
        found: dict[str, tuple[str, ...]] = {}
        for num_conv in sorted(range(1, num_stages), key=lambda n: abs(n - num_stages // 2)):
            rows = ((c,) * num_conv + (a,) * (num_stages - num_conv) for c in convolutions for a in attentions)
            if families := next((row for row in rows if self.design(row)), None):
                found["-".join(LETTERS[family] for family in families)] = families
        return found | {
            f"all {family}": (family,) * num_stages for family in BLOCKS if self.design((family,) * num_stages)
        }
