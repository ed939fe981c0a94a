"""A search space: which architectures there are, in a YAML file that a person can read and change.

A space is sampled by any `choose(name, values) -> value`: Optuna's trial, a random generator, a lookup. Every sample
is legal. A name is asked always with the same values: where the legal ones depend on what was chosen before, the name
says which they are.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Annotated, Any

import torch
import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from hybridnas.architecture import LETTERS, Architecture, Head, Stage, Stem, Transition, Value
from hybridnas.blocks import BLOCKS, option_defaults
from hybridnas.blocks.heads import HEADS
from hybridnas.blocks.stems import STEMS
from hybridnas.blocks.transitions import TRANSITIONS
from hybridnas.errors import ArchitectureError, SpaceError
from hybridnas.model import make, same_kind

Choose = Callable[[str, Sequence[Any]], Any]

#: What a file's `rules` may say: is `block` legal on a map of `resolution`, given the rule's number?
RULES: dict[str, Callable[[str, int, int], bool]] = {
    "no_global_above_tokens": lambda block, resolution, limit: block != "global" or resolution**2 <= limit,
}

#: Strides that a transition can take, where not all.
STRIDES = {"none": [1], "merge": [2]}

# A file this size is no search space; the bound also stops aliases that unfold without end.
MAX_NODES = 20_000


def _one_or_more(value: Any) -> Any:
    return value if isinstance(value, list) else [value]


def _options(value: Any) -> Any:
    """Whole floats become integers, as in an architecture's options."""
    return [int(v) if isinstance(v, float) and v.is_integer() else v for v in _one_or_more(value)]


_Names = Annotated[list[str], BeforeValidator(_one_or_more), Field(min_length=1)]
_Counts = Annotated[list[Annotated[int, Field(ge=1)]], BeforeValidator(_one_or_more), Field(min_length=1)]
_Depths = Annotated[list[Annotated[int, Field(ge=0)]], BeforeValidator(_one_or_more), Field(min_length=1)]
_Values = Annotated[list[Value], BeforeValidator(_options), Field(min_length=1)]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class StemSpace(_Part):
    """The stems to choose from."""

    type: _Names
    width: _Counts


class StageSpace(_Part):
    """The choices of one stage. Transition `none` keeps the width that comes in and takes stride 1."""

    transition: _Names
    block: _Names
    depth: _Depths
    width: _Counts
    stride: _Counts = [2]


class SpaceFile(_Part):
    """The whole file, as written."""

    image_size: _Counts
    stem: StemSpace
    stages: Annotated[list[StageSpace], Field(min_length=1)]
    blocks: dict[str, dict[str, _Values]] = {}
    transitions: dict[str, dict[str, _Values]] = {}
    head: _Names = ["linear"]
    rules: list[dict[str, int]] = []


@dataclass(frozen=True)
class SearchSpace:
    """A set of architectures. Make one with `SearchSpace.load`; `name` is the file's stem, `text` its content.

    >>> SearchSpace.load("tiny").sample(lambda name, values: values[0]).layout
    'CCCC'
    """

    name: str
    text: str
    file: SpaceFile

    @classmethod
    def load(cls, name_or_path: str | Path) -> SearchSpace:
        """Read and check a space: a shipped one by name, any other by the path of its YAML file.

        Every combination of family, width, resolution and options is built on the meta device.

        Raises:
            SpaceError: no such file, or anything wrong in it, with file, line, key and the allowed values.
        """
        path = _find(name_or_path)
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise SpaceError(f"The space {path} cannot be read: {error}.") from None
        return cls.parse(text, name=path.stem, file=str(path))

    @classmethod
    def parse(cls, text: str, *, name: str, file: str) -> SearchSpace:
        """Read and check a space from YAML text; `file` is what error messages call it."""
        source = _Source(text, file)
        space = cls(name, text, source.read())
        _check_names(space.file, source)
        _check_parts(space, source)
        return space

    def with_image_size(self, image_size: int) -> SearchSpace:
        """The same space at one image size, checked again.

        Raises:
            SpaceError: some choice of the space is impossible at that size.
        """
        space = replace(self, file=self.file.model_copy(update={"image_size": [image_size]}))
        _check_parts(space, _Source(self.text, f"{self.name} at image size {image_size}"))
        return space

    def sample(self, choose: Choose) -> Architecture:
        """Make one architecture; `choose` is asked for each open choice by name, with its legal values."""

        def pick(name: str, values: Sequence[Any]) -> Any:
            return values[0] if len(values) == 1 else choose(name, values)

        file = self.file
        image_size = pick("image_size", file.image_size)
        stem = Stem(pick("stem.type", file.stem.type), pick("stem.width", file.stem.width))
        width = stem.width
        resolution = _stem_resolution(image_size, stem.type)
        stages = []
        for i, stage in enumerate(file.stages, 1):
            kind = pick(f"stage{i}.transition", stage.transition)
            stride = pick(f"stage{i}.stride", _strides(stage, kind))
            joint = self._options(pick, f"stage{i}.transition", kind, file.transitions)
            width = width if kind == "none" else pick(f"stage{i}.width", stage.width)
            resolution = math.ceil(resolution / stride)
            depth = pick(f"stage{i}.depth", stage.depth)
            legal = self.legal_blocks(stage, resolution)
            if depth:
                scope = "" if legal == stage.block else f"({'|'.join(legal)})"
                block = pick(f"stage{i}.block{scope}", legal)
                options = self._options(pick, f"stage{i}", block, file.blocks)
            else:
                block, options = legal[0], {}
            stages.append(Stage(Transition(kind, stride, joint), block, depth, width, options))
        return Architecture(image_size, stem, tuple(stages), Head(pick("head", file.head)))

    def legal_blocks(self, stage: StageSpace, resolution: int) -> list[str]:
        """The families that the rules allow on a map of `resolution` x `resolution`."""
        rules = [(RULES[name], limit) for rule in self.file.rules for name, limit in rule.items()]
        return [block for block in stage.block if all(legal(block, resolution, limit) for legal, limit in rules)]

    def encode(self, architecture: Architecture) -> dict[str, Value]:
        """The choices that make `architecture`: name to value, for `sample`.

        Options that the space leaves open and the architecture leaves out count as the family's defaults.

        Raises:
            SpaceError: the architecture is not a point of this space; the sentence names the first choice that differs.
        """
        wanted = self._wanted(architecture)
        chosen: dict[str, Value] = {}

        def choose(name: str, values: Sequence[Any]) -> Any:
            key = name.partition("(")[0]
            if key not in wanted:  # asked of a family that the architecture does not have there
                part = key.split(".")[0] + (".transition" if ".transition." in key else ".block")
                raise SpaceError(f"Not in the space {self.name}: {part} is {wanted[part]}, which is not legal there.")
            value = wanted[key]
            if not any(value == other and type(value) is type(other) for other in values):
                shown = ", ".join(map(str, values))
                raise SpaceError(f"Not in the space {self.name}: {name} is {value}; its values are {shown}.")
            chosen[name] = value
            return value

        if len(architecture.stages) != len(self.file.stages):
            raise SpaceError(
                f"Not in the space {self.name}: {len(architecture.stages)} stages; it has {len(self.file.stages)}."
            )
        point = self.sample(choose)
        if _with_defaults(point) != _with_defaults(architecture):
            a, b = self._wanted(point), wanted
            name = next((name for name in b if a.get(name) != b[name]), "an option")
            raise SpaceError(
                f"Not in the space {self.name}: {name} is {wanted.get(name)}; it is always {a.get(name)} there."
            )
        return chosen

    def _wanted(self, architecture: Architecture) -> dict[str, Value]:
        architecture = _with_defaults(architecture)
        wanted: dict[str, Value] = {
            "image_size": architecture.image_size,
            "stem.type": architecture.stem.type,
            "stem.width": architecture.stem.width,
            "head": architecture.head.type,
        }
        for part in ("stem", "head"):
            for option, value in getattr(architecture, part).options.items():
                wanted[f"{part}.{option}"] = value
        for i, stage in enumerate(architecture.stages, 1):
            wanted |= {
                f"stage{i}.transition": stage.transition.type,
                f"stage{i}.stride": stage.transition.stride,
                f"stage{i}.width": stage.width,
                f"stage{i}.depth": stage.depth,
                f"stage{i}.block": stage.block,
            }
            for option, value in stage.transition.options.items():
                wanted[f"stage{i}.transition.{stage.transition.type}.{option}"] = value
            for option, value in stage.options.items():
                wanted[f"stage{i}.{stage.block}.{option}"] = value
        return wanted

    def design(self, families: Sequence[str], *, size: float = 0.5) -> Architecture | None:
        """The architecture with these families, stage by stage, or None where one is not legal.

        Args:
            families: One a stage.
            size: 0 takes the smallest of each list of numbers, 1 the largest, 0.5 the middle. Of words and of
                true/false the first in the file is taken.
        """

        def choose(name: str, values: Sequence[Any]) -> Any:
            stage, _, rest = name.partition(".")
            if rest.startswith("block"):
                family = families[int(stage.removeprefix("stage")) - 1]
                return family if family in values else values[0]
            if all(type(value) in (int, float) for value in values):
                return sorted(values)[round(size * (len(values) - 1))]
            return values[0]

        if len(families) != len(self.file.stages):
            return None
        architecture = self.sample(choose)
        right = all(s.block == f or not s.depth for s, f in zip(architecture.stages, families, strict=True))
        return architecture if right else None

    def layouts(self) -> dict[str, tuple[str, ...]]:
        """The known layouts that this space can say: a name, and the family of each stage.

        CoAtNet's ablation (arXiv:2106.04803, table 1) compares C-C-C-C to C-T-T-T; each is a row of one convolution
        family followed by one attention family. Added are the layouts of one family throughout.
        """
        stages = self.file.stages
        everywhere = [block for block in BLOCKS if any(block in stage.block for stage in stages)]
        conv = next((block for block in everywhere if LETTERS[block] == "C"), None)
        attention = next((b for b in ("global", "window") if b in everywhere), None)
        found: dict[str, tuple[str, ...]] = {}
        if conv and attention:
            half = len(stages) // 2
            for num_conv in sorted(range(1, len(stages)), key=lambda n: abs(n - half)):
                families = (conv,) * num_conv + (attention,) * (len(stages) - num_conv)
                found["-".join(LETTERS[f] for f in families)] = families
        for block in everywhere:
            found[f"all {block}"] = (block,) * len(stages)
        return {
            name: families
            for name, families in found.items()
            if all(f in stage.block for f, stage in zip(families, stages, strict=True)) and self.design(families)
        }

    @cached_property
    def size(self) -> int:
        """How many different points the space has."""
        file = self.file

        @lru_cache(None)
        def from_stage(i: int, width: int, resolution: int) -> int:
            if i == len(file.stages):
                return len(file.head)
            stage = file.stages[i]
            total = 0
            for kind in stage.transition:
                for stride in _strides(stage, kind):
                    out = math.ceil(resolution / stride)
                    blocks = sum(self._num_options(block, file.blocks) for block in self.legal_blocks(stage, out))
                    bodies = sum(blocks if depth else 1 for depth in stage.depth)
                    widths = [width] if kind == "none" else stage.width
                    later = sum(from_stage(i + 1, w, out) for w in widths)
                    total += self._num_options(kind, file.transitions) * bodies * later
            return total

        return sum(
            from_stage(0, width, _stem_resolution(image_size, stem))
            for image_size, stem, width in itertools.product(file.image_size, file.stem.type, file.stem.width)
        )

    @staticmethod
    def _options(
        pick: Choose, scope: str, part: str, table: Mapping[str, Mapping[str, Sequence[Value]]]
    ) -> dict[str, Value]:
        return {option: pick(f"{scope}.{part}.{option}", values) for option, values in table.get(part, {}).items()}

    @staticmethod
    def _num_options(part: str, table: Mapping[str, Mapping[str, Sequence[Value]]]) -> int:
        return math.prod(len(values) for values in table.get(part, {}).values())


def shipped_spaces() -> dict[str, Path]:
    """The spaces that come with the package: name to file."""
    here = Path(__file__).parent
    # Installed, the folder lies in the package; in a checkout, beside it.
    folder = next((f for f in (here / "search_spaces", here.parent / "search_spaces") if f.is_dir()), here)
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))}


def _find(name_or_path: str | Path) -> Path:
    shipped = shipped_spaces()
    if str(name_or_path) in shipped:
        return shipped[str(name_or_path)]
    path = Path(name_or_path)
    if not path.is_file():
        raise SpaceError(f"No space {str(name_or_path)!r}: name one of {', '.join(shipped)}, or an existing YAML file.")
    return path


def _strides(stage: StageSpace, transition: str) -> Sequence[int]:
    return STRIDES.get(transition, stage.stride)


def _stem_resolution(image_size: int, stem: str) -> int:
    return math.ceil(image_size / int(getattr(STEMS[stem], "stride")))  # noqa: B009 (mypy)


def _with_defaults(architecture: Architecture) -> Architecture:
    """The same network with every option said; a stage without blocks says none."""

    def full(stage: Stage) -> Stage:
        joint, body = _defaults(TRANSITIONS, stage.transition.type), _defaults(BLOCKS, stage.block)
        return replace(
            stage,
            transition=replace(stage.transition, options={**joint, **stage.transition.options}),
            block=stage.block if stage.depth else "",
            options={**body, **stage.options} if stage.depth else {},
        )

    stem, head = architecture.stem, architecture.head
    return replace(
        architecture,
        stem=replace(stem, options={**_defaults(STEMS, stem.type), **stem.options}),
        stages=tuple(full(stage) for stage in architecture.stages),
        head=replace(head, options={**_defaults(HEADS, head.type), **head.options}),
    )


def _defaults(table: Mapping[str, type[torch.nn.Module]], name: str) -> dict[str, Value]:
    return option_defaults(table[name]) if name in table else {}


class _Source:
    """A YAML text with the line of every key, so that an error can name it."""

    def __init__(self, text: str, file: str) -> None:
        self.file = file
        self.text = text
        self.lines: dict[tuple[str | int, ...], int] = {}

    def read(self) -> SpaceFile:
        try:
            root = yaml.compose(self.text, Loader=yaml.SafeLoader)
            if root is None:
                raise SpaceError(f"{self.file} is empty.")
            self._note(root, ())
            content = yaml.safe_load(self.text)
        except yaml.YAMLError as error:
            mark = getattr(error, "problem_mark", None)
            where = f", line {mark.line + 1}" if mark else ""
            problem = getattr(error, "problem", None) or str(error).partition("\n")[0]
            raise SpaceError(f"{self.file}{where} is not YAML: {problem}.") from None
        except (RecursionError, ValueError) as error:
            raise SpaceError(f"{self.file} cannot be read as YAML: {error}.") from None
        try:
            return SpaceFile.model_validate(content)
        except ValidationError as error:
            # Of a mistyped key the missing one is the consequence: name the cause.
            first = min(error.errors(), key=lambda e: e["type"] != "extra_forbidden")
            path = tuple(part for part in first["loc"] if not str(part).startswith(("function-", "tagged-")))
            if first["type"] == "extra_forbidden":
                owner: Any = SpaceFile if len(path) == 1 else StemSpace if path[0] == "stem" else StageSpace
                raise self.error(path, "is unknown", list(owner.model_fields)) from None
            raise self.error(path, f"{first['msg'][0].lower()}{first['msg'][1:]}") from None

    def error(self, path: tuple[str | int, ...], problem: str, allowed: Sequence[Any] = ()) -> SpaceError:
        """The sentence for something wrong at `path`; the line is that of the nearest key that the file has."""
        near = path
        while near and near not in self.lines:
            near = near[:-1]
        key = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path).lstrip(".")
        line = f", line {self.lines[near]}" if near in self.lines else ""
        tail = f"; allowed are {', '.join(map(str, allowed))}" if allowed else ""
        return SpaceError(f"{self.file}{line}: {key or 'the file'} {problem}{tail}.")

    def _note(self, node: yaml.Node, path: tuple[str | int, ...]) -> None:
        self.lines[path] = node.start_mark.line + 1
        if len(self.lines) > MAX_NODES:
            raise SpaceError(f"{self.file} unfolds to more than {MAX_NODES} entries: that is no search space.")
        if isinstance(node, yaml.SequenceNode):
            for i, child in enumerate(node.value):
                self._note(child, (*path, i))
        elif isinstance(node, yaml.MappingNode):
            for key, child in node.value:
                name = (*path, str(key.value))
                if key.tag not in ("tag:yaml.org,2002:str", "tag:yaml.org,2002:bool"):
                    line = key.start_mark.line + 1
                    raise SpaceError(
                        f"{self.file}, line {line} is not YAML for a space: the key {key.value} is no word."
                    )
                if name in self.lines:
                    raise self.error(name, f"stands twice, again in line {key.start_mark.line + 1}")
                self._note(child, name)
                self.lines[name] = key.start_mark.line + 1


def _check_names(file: SpaceFile, source: _Source) -> None:
    """Every name is known, no list repeats a value."""

    def known(path: tuple[str | int, ...], names: Sequence[str], table: Mapping[str, object]) -> None:
        for name in names:
            if name not in table:
                raise source.error(path, f"names {name!r}, which is unknown", list(table))

    def once(path: tuple[str | int, ...], values: Sequence[Any]) -> None:
        seen: list[Any] = []
        for value in values:
            if any(value == other and type(value) is type(other) for other in seen):
                raise source.error(path, f"holds {value} twice")
            seen.append(value)

    known(("stem", "type"), file.stem.type, STEMS)
    known(("head",), file.head, HEADS)
    lists: list[tuple[tuple[str | int, ...], Sequence[Any]]] = [
        (("image_size",), file.image_size),
        (("stem", "type"), file.stem.type),
        (("stem", "width"), file.stem.width),
        (("head",), file.head),
    ]
    for i, stage in enumerate(file.stages):
        known(("stages", i, "transition"), stage.transition, TRANSITIONS)
        known(("stages", i, "block"), stage.block, BLOCKS)
        for stride in stage.stride:
            if stride not in (1, 2):
                raise source.error(("stages", i, "stride"), f"holds {stride}", [1, 2])
        if "merge" in stage.transition and 2 not in stage.stride:
            raise source.error(("stages", i, "stride"), "lacks 2, the only stride that transition merge takes")
        lists += [(("stages", i, name), getattr(stage, name)) for name in StageSpace.model_fields]
    for section, table in (("blocks", BLOCKS), ("transitions", TRANSITIONS)):
        for part, options in getattr(file, section).items():
            known((section, part), [part], table)
            defaults = option_defaults(table[part])
            for option, values in options.items():
                path: tuple[str | int, ...] = (section, part, option)
                if option not in defaults:
                    raise source.error(path, f"is no option of {part}", list(defaults) or ["none"])
                for value in values:
                    if not same_kind(value, defaults[option]):
                        kind = type(defaults[option]).__name__
                        raise source.error(path, f"holds {value}; each value must be of type {kind}")
                lists.append((path, values))
    for i, rule in enumerate(file.rules):
        for name in rule:
            if name not in RULES:
                raise source.error(("rules", i, name), "is unknown", list(RULES))
    for path, values in lists:
        once(path, values)


def _check_parts(space: SearchSpace, source: _Source) -> None:
    """Build each part that a sample can hold, one block deep, where nothing is allocated."""
    file = space.file
    built: set[object] = set()
    # (width, resolution) pairs that reach the next stage
    reach = {
        (width, _stem_resolution(size, stem))
        for width, size, stem in itertools.product(file.stem.width, file.image_size, file.stem.type)
    }
    with torch.device("meta"):
        for i, stage in enumerate(file.stages):
            arriving, reach = reach, set()
            for (width, resolution), kind in itertools.product(sorted(arriving), stage.transition):
                for stride, out_width in itertools.product(
                    _strides(stage, kind), [width] if kind == "none" else stage.width
                ):
                    out = math.ceil(resolution / stride)
                    reach.add((out_width, out))
                    for options in _combinations(file.transitions.get(kind, {})):
                        _try(
                            source,
                            ("stages", i),
                            TRANSITIONS,
                            kind,
                            options,
                            built,
                            width,
                            out_width,
                            stride,
                            resolution,
                        )
            for width, resolution in sorted(reach):
                legal = space.legal_blocks(stage, resolution)
                if not legal:
                    raise source.error(
                        ("stages", i, "block"), f"holds no family that the rules allow at resolution {resolution}"
                    )
                for block in legal:
                    # Convolutions are the same at every resolution: once is enough.
                    size = 1 if LETTERS[block] == "C" else resolution
                    for options in _combinations(file.blocks.get(block, {})):
                        _try(source, ("stages", i), BLOCKS, block, options, built, width, 1, size)


def _combinations(options: Mapping[str, Sequence[Value]]) -> Iterator[dict[str, Value]]:
    for values in itertools.product(*options.values()):
        yield dict(zip(options, values, strict=True))


def _try(
    source: _Source,
    path: tuple[str | int, ...],
    table: Mapping[str, type[torch.nn.Module]],
    name: str,
    options: Mapping[str, Value],
    built: set[object],
    *numbers: int,
) -> None:
    point = (id(table), name, tuple(options.items()), numbers)
    if point in built:
        return
    built.add(point)
    try:
        make(name, table, name, options, *numbers)
    except ArchitectureError as error:
        problem = str(error).removeprefix(f"{name}: ").rstrip(".")
        said = ", ".join(f"{option} {value}" for option, value in options.items())
        raise source.error(
            path, f"cannot be built ({said}): {problem}" if said else f"cannot be built: {problem}"
        ) from None
