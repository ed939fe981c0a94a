"""The spaces that come with the package."""

from __future__ import annotations

from pathlib import Path

from hybridnas.errors import SpaceError


def shipped_spaces() -> dict[str, Path]:
    """The spaces that come with the package: name to file."""
    package = Path(__file__).parent.parent
    # Installed, the folder lies in the package; in a checkout, beside it.
    folders = (package / "search_spaces", package.parent / "search_spaces")
    folder = next((folder for folder in folders if folder.is_dir()), package)
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
