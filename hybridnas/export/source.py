"""The source text of some of this package's classes and functions, with all that they need, to stand in another file.

What they need is what their names say, followed through the modules: so the text that leaves is the text that is
tested here, comments and references to papers included.
"""

from __future__ import annotations

import ast
import inspect
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from graphlib import TopologicalSorter
from importlib import import_module

PACKAGE = "hybridnas"
#: For linters and type checkers; it says nothing to a reader.
PRAGMA = re.compile(r"  # (noqa|type: ignore)\b.*$")
LINE = 120


@dataclass(frozen=True)
class Import:
    """`from module import name as alias`, or `import module` where there is no name."""

    module: str
    name: str = ""
    alias: str = ""


@dataclass(frozen=True)
class Definition:
    """A class, function or constant at the top of a module: its text, and the names that it takes from there."""

    text: str
    names: frozenset[str]


@dataclass(frozen=True)
class Module:
    """What stands at the top of a module, by name and in its order."""

    about: str
    definitions: dict[str, Definition]
    imports: dict[str, Import]


@dataclass(frozen=True)
class Source:
    """Text that needs no module of this package but `imports` of others."""

    imports: frozenset[Import]
    text: str


def source_of(*roots: Callable[..., object]) -> Source:
    """The text of classes and functions of this package, and of all of the package that they need.

    The part of each file of blocks begins with its docstring as a comment. What refuses wrong arguments is left out,
    calls and methods called `check`: an architecture that was built has passed them.

    Raises:
        ValueError: two modules define a name that both are needed for.
    """
    needed: dict[str, set[str]] = {}
    imports: set[Import] = set()
    after: dict[str, list[str]] = {}  # modules that a module needs, in the order in which it does

    def visit(module: str, name: str, needs_it: str = "") -> None:
        found = read(module)
        if name in found.definitions:
            after.setdefault(module, [])
            if needs_it not in ("", module) and module not in after[needs_it]:
                after[needs_it].append(module)
            if name in needed.setdefault(module, set()):
                return
            needed[module].add(name)
            for other in sorted(found.definitions[name].names):
                visit(module, other, module)
        elif name in found.imports:
            imported = found.imports[name]
            if imported.module.partition(".")[0] == PACKAGE:
                visit(imported.module, imported.name, needs_it)
            else:
                imports.add(imported)

    for root in roots:
        visit(root.__module__, root.__name__)
    order = TopologicalSorter(after).static_order()
    every = [name for names in needed.values() for name in names]
    for name in every:
        if every.count(name) > 1:
            raise ValueError(f"{name} is defined by {' and '.join(m for m, names in needed.items() if name in names)}")
    return Source(frozenset(imports), "\n\n\n".join(_part(module, needed[module]) for module in order))


def _part(name: str, names: set[str]) -> str:
    module = read(name)
    # What files of block families say of themselves is where they come from.
    about = module.about.splitlines() if name.startswith(f"{PACKAGE}.blocks.") else []
    texts = [definition.text for name, definition in module.definitions.items() if name in names]
    # Constants stand together; classes and functions apart.
    text = texts[0]
    for before, after in zip(texts, texts[1:], strict=False):
        text += ("\n" if _is_constant(before) and _is_constant(after) else "\n\n\n") + after
    comment = "\n".join(f"# {line}".rstrip() for line in about)
    return comment + ("" if not about else "\n\n" if _is_constant(texts[0]) else "\n\n\n") + text


def _is_constant(text: str) -> bool:
    return not re.search(r"^(@|def |class )", text, re.MULTILINE)


@lru_cache(None)
def read(name: str) -> Module:
    """Take a module of this package apart."""
    text = inspect.getsource(import_module(name))
    tree = ast.parse(text)
    lines = [*(PRAGMA.sub("", line) for line in text.splitlines()), ""]
    definitions: dict[str, Definition] = {}
    imports: dict[str, Import] = {}
    for node in tree.body:
        if isinstance(node, ast.Import):
            for alias in node.names:
                imports[alias.asname or alias.name] = Import(alias.name, alias=alias.asname or "")
        elif isinstance(node, ast.ImportFrom):
            for alias in node.names:
                imports[alias.asname or alias.name] = Import(str(node.module), alias.name, alias.asname or "")
        for defined in _defined(node):
            definitions[defined] = _definition(node, lines)
    return Module(ast.get_docstring(tree) or "", definitions, imports)


def _defined(node: ast.stmt) -> Iterator[str]:
    if isinstance(node, ast.ClassDef | ast.FunctionDef):
        yield node.name
    targets = node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
    for target in targets:
        if isinstance(target, ast.Name):
            yield target.id


def _definition(node: ast.stmt, lines: list[str]) -> Definition:
    first, last = _first_line(node), node.end_lineno or node.lineno
    while lines[first - 2].startswith("#"):
        first -= 1
    left_out: set[int] = set()
    for inner in ast.walk(node):
        if isinstance(inner, ast.stmt) and _refuses(inner):
            start = _first_line(inner)
            while start > first and not lines[start - 2].strip() and not lines[inner.end_lineno or 0].strip():
                start -= 1  # of a method, one of the gaps before and after it
            left_out |= {*range(start, (inner.end_lineno or start) + 1)}
    text = "\n".join(lines[i - 1] for i in range(first, last + 1) if i not in left_out).rstrip()
    names = {each.id for each in ast.walk(ast.parse(text)) if isinstance(each, ast.Name)}
    return Definition(text, frozenset(names))


def _first_line(node: ast.stmt) -> int:
    decorators: list[ast.expr] = getattr(node, "decorator_list", [])
    return min([node.lineno, *(each.lineno for each in decorators)])


def _refuses(node: ast.stmt) -> bool:
    """Whether a statement is there for wrong arguments, or says which options a space may not vary."""
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
        function = node.value.func
        name = function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")
        return name == "check" or name.startswith("check_")
    return (isinstance(node, ast.FunctionDef) and node.name == "check") or "COMPAT" in _defined(node)


def import_lines(imports: Iterable[Import]) -> str:
    """Import statements in the usual order: the standard library, then others."""
    ours = sys.stdlib_module_names
    whole = {each for each in imports if not each.name}
    of: dict[str, list[Import]] = {}
    for each in imports:
        if each.name:
            of.setdefault(each.module, []).append(each)
    sections = []
    for standard in (True, False):
        lines = [
            f"import {each.module}" + (f" as {each.alias}" if each.alias else "")
            for each in sorted(whole, key=lambda each: each.module)
            if (each.module.partition(".")[0] in ours) == standard
        ]
        for module in sorted(of, key=str.lower):
            if (module.partition(".")[0] in ours) == standard:
                names = sorted({(_kind(each.name), each.name.lower(), each.name, each.alias) for each in of[module]})
                plain = [name for *_, name, alias in names if not alias]
                if plain:
                    lines.append(_from(module, plain))
                lines += [f"from {module} import {name} as {alias}" for *_, name, alias in names if alias]
        if lines:
            sections.append("\n".join(lines))
    return "\n\n".join(sections)


def _kind(name: str) -> int:
    """Constants first, then classes, then functions."""
    return 0 if name.isupper() and len(name) > 1 else 1 if name[0].isupper() else 2


def _from(module: str, names: list[str]) -> str:
    line = f"from {module} import {', '.join(names)}"
    return line if len(line) <= LINE else "\n    ".join([f"from {module} import (", *(f"{n}," for n in names)]) + "\n)"
