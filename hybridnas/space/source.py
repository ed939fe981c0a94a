"""The text of a space: YAML read with the line of every key, so that an error can name it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from hybridnas.errors import SpaceError
from hybridnas.space.file import SpaceFile, StageSpace, StemSpace

# A file this size is no search space; the bound also stops aliases that unfold without end.
MAX_NODES = 20_000

#: Where in a file: the keys and list positions that lead there.
Keys = tuple[str | int, ...]


class Source:
    """A YAML text; `file` is what error messages call it."""

    def __init__(self, text: str, file: str) -> None:
        self.file = file
        self.text = text
        self.lines: dict[Keys, int] = {}

    def read(self) -> SpaceFile:
        """What the text says.

        Raises:
            SpaceError: it is not YAML, or a section is missing, unknown or of the wrong type.
        """
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
            keys = tuple(part for part in first["loc"] if not str(part).startswith(("function-", "tagged-")))
            if first["type"] == "extra_forbidden":
                owner: type[BaseModel] = SpaceFile
                if len(keys) > 1:
                    owner = StemSpace if keys[0] == "stem" else StageSpace
                raise self.error(keys, "is unknown", list(owner.model_fields)) from None
            raise self.error(keys, f"{first['msg'][0].lower()}{first['msg'][1:]}") from None

    def error(self, keys: Keys, problem: str, allowed: Sequence[Any] = ()) -> SpaceError:
        """The sentence for something wrong at `keys`; the line is that of the nearest key that the file has."""
        near = keys
        while near and near not in self.lines:
            near = near[:-1]
        key = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in keys).lstrip(".")
        line = f", line {self.lines[near]}" if near in self.lines else ""
        tail = f"; allowed are {', '.join(map(str, allowed))}" if allowed else ""
        return SpaceError(f"{self.file}{line}: {key or 'the file'} {problem}{tail}.")

    def _note(self, node: yaml.Node, keys: Keys) -> None:
        self.lines[keys] = node.start_mark.line + 1
        if len(self.lines) > MAX_NODES:
            raise SpaceError(f"{self.file} unfolds to more than {MAX_NODES} entries: that is no search space.")
        if isinstance(node, yaml.SequenceNode):
            for i, child in enumerate(node.value):
                self._note(child, (*keys, i))
        elif isinstance(node, yaml.MappingNode):
            for key, child in node.value:
                name = (*keys, str(key.value))
                if key.tag not in ("tag:yaml.org,2002:str", "tag:yaml.org,2002:bool"):
                    line = key.start_mark.line + 1
                    raise SpaceError(
                        f"{self.file}, line {line} is not YAML for a space: the key {key.value} is no word."
                    )
                if name in self.lines:
                    raise self.error(name, f"stands twice, again in line {key.start_mark.line + 1}")
                self._note(child, name)
                self.lines[name] = key.start_mark.line + 1
