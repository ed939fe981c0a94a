"""The spaces that come with the package."""

from __future__ import annotations

from pathlib import Path

from hybridnas.errors import SpaceError
from hybridnas.files import shipped_folder


def shipped_spaces() -> dict[str, Path]:
    """The spaces that come with the package: name to file."""
    folder = shipped_folder("search_spaces", "search_spaces")
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))}


def find_space(name_or_path: str | Path) -> Path:
    """The file of a shipped space, or of any other by its path.

    Raises:
        SpaceError: there is neither.
    """
    shipped = shipped_spaces()
    if str(name_or_path) in shipped:
        return shipped[str(name_or_path)]
    path = Path(name_or_path)
    if not path.is_file():
        raise SpaceError(f"No space {str(name_or_path)!r}: name one of {', '.join(shipped)}, or an existing YAML file.")
    return path
