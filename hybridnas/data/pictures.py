"""Image files: a folder of class folders, or a table of paths and labels."""

from __future__ import annotations

import csv
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image

from hybridnas.data.dataset import Dataset
from hybridnas.data.loading import Loading, Source, encoded_dataset
from hybridnas.errors import DataError

TRAIN_FOLDERS = ("train", "training")
TEST_FOLDERS = ("test", "testing", "val", "valid", "validation")
#: What a folder of classes is called, and never a class that has folders of its own.
PART = re.compile(rf"({'|'.join((*TRAIN_FOLDERS, *TEST_FOLDERS))})([ _-]?(set|data|images|split))?", re.IGNORECASE)
#: Photos of kinds that Pillow may lack.
PHOTOS = (".heic", ".heif", ".avif", ".jxl", ".dng", ".cr2", ".cr3", ".nef", ".arw", ".orf", ".raf", ".rw2")
COLUMNS = ("path", "label", "split")
#: Files that are opened to see how large images are.
NUM_SAMPLED = 32


@dataclass(frozen=True)
class Files:
    """Encoded images in files, and the name of each one's class."""

    paths: Sequence[Path]
    labels: Sequence[str]

    def __len__(self) -> int:
        return len(self.paths)

    def name(self, i: int) -> str:
        """The path."""
        return str(self.paths[i])

    def read(self, i: int, most: int = -1) -> bytes:
        """The file."""
        with self.paths[i].open("rb") as file:
            return file.read(most)

    def sizes(self) -> list[int]:
        """Of the files; -1 where one is gone, which reading it will tell."""
        return [_size(path) for path in self.paths]


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except (OSError, ValueError):
        return -1


def folder_source(path: Path) -> Source:
    """`path`/CLASS/image, or `path`/train/CLASS/image with `path`/test (or val) beside it, in capitals or not.

    Raises:
        DataError: there are no two class folders, no images, a class that only the test part has, or parts whose names
            say nothing.
    """
    root, test_root = _parts(path)
    class_names = _class_folders(root)
    if len(class_names) < 2:
        raise DataError(f"{root} holds {len(class_names)} class folders; at least two are needed.")
    if test_root:
        for name in _class_folders(test_root):
            if name not in class_names:
                raise DataError(f"{test_root} has a class {name!r} that {root} lacks.")
    files, unread = _list_images(root, class_names)
    if not len(files):
        raise DataError(f"{root} holds no images.")
    test = None
    if test_root:
        test, more = _list_images(test_root, class_names)
        unread += more
    source = _source(path.name, files, test, class_names)
    if not unread:
        return source
    told = ", ".join(f"{count} {kind}" for kind, count in sorted(unread.items()))
    note = f"photos of kinds that Pillow cannot read here are left out: {told}"
    return replace(source, load=lambda loading: _with_note(source.load(loading), note))


def _parts(path: Path) -> tuple[Path, Path | None]:
    """The folder of the classes to train on, `path` itself if it is not divided, and that of the test part."""
    below = {child.name.lower(): child for child in sorted(path.iterdir()) if child.is_dir()}
    train, test = (
        next((below[name] for name in names if name in below), None) for names in (TRAIN_FOLDERS, TEST_FOLDERS)
    )
    others = [child for name, child in below.items() if name not in (*TRAIN_FOLDERS, *TEST_FOLDERS)]
    # Else it is a class, such as of vehicles.
    if train and _class_folders(train) and (test or not any(map(_holds_images, others))):
        return train, test
    for child in below.values():
        if PART.fullmatch(child.name) and ((train and test) or _class_folders(child)):
            raise DataError(
                f"{child} is called like a part of the data and not one of its classes: put a folder for each class to "
                f"train on into {path / 'train'}, and those of the test, if there is one, into {path / 'test'}."
            )
    return path, None


def _holds_images(folder: Path) -> bool:
    endings = Image.registered_extensions()
    return any(file.suffix.lower() in endings for file in folder.iterdir())


def _with_note(dataset: Dataset, note: str) -> Dataset:
    return replace(dataset, notes=(note, *dataset.notes))


def _class_folders(root: Path) -> tuple[str, ...]:
    return tuple(sorted(child.name for child in root.iterdir() if child.is_dir()))


def _list_images(root: Path, class_names: Sequence[str]) -> tuple[Files, Counter[str]]:
    """The images of the classes, and how many photos there are of each kind that Pillow lacks here."""
    endings = Image.registered_extensions()
    unread: Counter[str] = Counter()
    paths: list[Path] = []
    labels: list[str] = []
    for name in class_names:
        every = sorted((root / name).rglob("*"))
        found = [file for file in every if file.suffix.lower() in endings]
        unread.update(kind for file in every if (kind := file.suffix.lower()) in PHOTOS and kind not in endings)
        paths += found
        labels += [name] * len(found)
    return Files(paths, labels), unread


def csv_source(path: Path) -> Source:
    """A table with the columns path (from the table's own folder, or absolute), label, and perhaps split.

    The split is 'train' or 'test' (or another of `TEST_FOLDERS`); without the column all is 'train'.

    Raises:
        DataError: a column lacks, a row is incomplete, or a class stands in the test part alone.
    """
    rows: dict[bool, list[tuple[Path, str]]] = {False: [], True: []}
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            missing = [name for name in COLUMNS[:2] if name not in (reader.fieldnames or ())]
            if missing:
                raise DataError(
                    f"{path} lacks the column {' and '.join(missing)}; its first line must name path, label and, if "
                    f"you like, split, and says {','.join(reader.fieldnames or ()) or 'nothing'}."
                )
            for row in reader:
                where, label, split = ((row.get(name) or "").strip() for name in COLUMNS)
                if not where or not label:
                    raise DataError(f"{path}, line {reader.line_num}: path and label must both be given.")
                if split not in ("", "train", *TEST_FOLDERS):
                    raise DataError(f"{path}, line {reader.line_num}: split must be train or test, got {split!r}.")
                rows[split in TEST_FOLDERS].append((path.parent / where, label))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path} cannot be read as a table: {error}.") from None
    class_names = tuple(sorted({label for _, label in rows[False]}))
    for _, label in rows[True]:
        if label not in class_names:
            raise DataError(f"{path}: the class {label!r} stands in the test part alone.")
    train, test = (Files([where for where, _ in rows[key]], [label for _, label in rows[key]]) for key in rows)
    if not len(train):
        raise DataError(f"{path} names no images to train on.")
    return _source(path.stem, train, test if len(test) else None, class_names)


def _source(name: str, train: Files, test: Files | None, class_names: tuple[str, ...]) -> Source:
    number = {label: i for i, label in enumerate(class_names)}

    def load(loading: Loading) -> Dataset:
        labelled = [
            (files, np.array([number[label] for label in files.labels], np.int64)) for files in (train, test) if files
        ]
        return encoded_dataset(name, labelled, class_names, loading)

    return Source(name, _typical_side(train.paths), load)


def _typical_side(paths: Sequence[Path]) -> int:
    """The median of the shorter sides of some of the images."""
    sides = []
    for path in paths[:: max(1, len(paths) // NUM_SAMPLED)]:
        try:
            with Image.open(path) as image:
                sides.append(min(image.size))
        except Exception:  # loading says so
            continue
    if not sides:
        raise DataError(f"{paths[0]} cannot be read as an image, nor can any other that was tried.")
    return int(np.median(sides))
