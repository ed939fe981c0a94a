"""An .npz file of images and labels, read a piece at a time: what is not used is never all in memory."""

from __future__ import annotations

import hashlib
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hybridnas.data.cache import cached
from hybridnas.data.dataset import Dataset, Images, Indices, Part, make_dataset
from hybridnas.data.loading import Loading, Source
from hybridnas.errors import DataError

NPZ_KEYS = ("train_images", "train_labels", "test_images", "test_labels", "class_names")
#: A label beyond it numbers no class.
MOST_CLASSES = 100_000
#: What a damaged, an encrypted or a strangely packed archive ends in.
UNREADABLE = (OSError, ValueError, EOFError, KeyError, RuntimeError, zipfile.BadZipFile, zlib.error)
#: Bytes of images that are read at once.
PIECE = 2**25


def npz_source(path: Path) -> Source:
    """The arrays that the README names.

    Raises:
        DataError: the file cannot be read, lacks an array, or one has another type or shape.
    """
    if path.is_file() and not zipfile.is_zipfile(path):
        raise DataError(f"{path} cannot be read as an npz file: it is no zip archive.")
    try:
        with path.open("rb") as raw, np.load(raw, allow_pickle=False) as file:  # it would not close what is damaged
            names = list(file.files)
            _check_names(path, names)
            heads = {key: _Stored.find(path, key) for key in names if key in ("train_images", "test_images")}
            others = {key: file[key] for key in names if key in NPZ_KEYS and key not in heads}
    except UNREADABLE as error:
        raise DataError(f"{path} cannot be read as an npz file: {str(error).rstrip('.')}.") from None
    parts = {which: _labels(path, heads, others, which) for which in ("train", "test") if f"{which}_images" in heads}
    if "class_names" in others:
        class_names = _class_names(path, others["class_names"])
    else:
        largest = max(int(labels.max(initial=0)) for labels in parts.values())
        if largest >= MOST_CLASSES:
            raise DataError(f"{path} has no class_names, and a label is {largest}: number the classes from 0.")
        class_names = tuple(map(str, range(1 + largest)))
    if not len(parts["train"]):
        raise DataError(f"{path}: train_images is empty.")
    channels = {name: head.shape[3] if len(head.shape) == 4 else 1 for name, head in heads.items()}
    if len({*channels.values()}) > 1:
        said = " and ".join(f"{name} {count}" for name, count in channels.items())
        raise DataError(f"{path}: both parts must be grey or both in colour; of channels {said}.")

    def load(loading: Loading) -> Dataset:
        labelled = {which: _part(heads[f"{which}_images"], labels, loading) for which, labels in parts.items()}
        return make_dataset(
            path.stem,
            labelled["train"],
            labelled.get("test"),
            class_names,
            seed=loading.seed,
            max_train=loading.max_train,
        )

    return Source(path.stem, min(heads["train_images"].shape[1:3]), load)


def _check_names(path: Path, names: list[str]) -> None:
    missing = [key for key in NPZ_KEYS[:2] if key not in names]
    if missing:
        raise DataError(
            f"{path} lacks {' and '.join(missing)}; it has {', '.join(names) or 'nothing'}. "
            f"Known keys are {', '.join(NPZ_KEYS)}."
        )
    if ("test_images" in names) != ("test_labels" in names):
        raise DataError(f"{path}: test_images and test_labels must come together.")


def _class_names(path: Path, names: NDArray[Any]) -> tuple[str, ...]:
    if names.ndim != 1:
        raise DataError(f"{path}: class_names must be a list of names, got an array of shape {names.shape}.")
    return tuple(name.decode(errors="replace") if isinstance(name, bytes) else str(name) for name in names.tolist())


def _labels(path: Path, heads: dict[str, _Stored], others: dict[str, NDArray[Any]], which: str) -> NDArray[np.int64]:
    images, labels = heads[f"{which}_images"], others[f"{which}_labels"]
    shape = images.shape
    if images.dtype.hasobject:
        raise DataError(f"{path}: {which}_images holds images of several sizes; all must have one.")
    if images.dtype != np.uint8 or len(shape) not in (3, 4) or (len(shape) == 4 and shape[3] not in (1, 3)):
        raise DataError(
            f"{path}: {which}_images must be uint8 of shape (N, H, W), (N, H, W, 1) or (N, H, W, 3), "
            f"got {images.dtype} of shape {shape}."
        )
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.dtype.kind not in "iu" or labels.shape != (shape[0],):
        raise DataError(
            f"{path}: {which}_labels must be integers of shape ({shape[0]},), got {labels.dtype} of shape "
            f"{labels.shape}."
        )
    return labels.astype(np.int64)


@dataclass(frozen=True)
class _Stored:
    """An array in an .npz file that is not read yet; `crc` is the zip archive's checksum of it."""

    path: Path
    key: str
    shape: tuple[int, ...]
    fortran: bool
    dtype: np.dtype[Any]
    crc: int

    @classmethod
    def find(cls, path: Path, key: str) -> _Stored:
        """Read its head alone."""
        with zipfile.ZipFile(path) as archive, archive.open(f"{key}.npy") as file:
            return cls(path, key, *_head(file), archive.getinfo(f"{key}.npy").CRC)

    def pieces(self) -> Iterator[tuple[int, Images]]:
        """All images (n, C, H, W), some at a time, with the number of the first."""
        try:
            yield from self._pieces()
        except UNREADABLE as error:
            raise DataError(f"{self.path} cannot be read as an npz file: {str(error).rstrip('.')}.") from None

    def _pieces(self) -> Iterator[tuple[int, Images]]:
        if self.fortran:  # rows are strewn over the file
            with np.load(self.path, allow_pickle=False) as file:
                yield 0, _channels_first(file[self.key])
            return
        size = int(np.prod(self.shape[1:]))
        step = max(1, PIECE // max(1, size))
        with zipfile.ZipFile(self.path) as archive, archive.open(f"{self.key}.npy") as file:
            _head(file)
            for start in range(0, self.shape[0], step):
                count = min(step, self.shape[0] - start)
                content = file.read(count * size)
                if len(content) < count * size:
                    raise DataError(f"{self.path}: {self.key} ends too early.")
                yield start, _channels_first(np.frombuffer(content, np.uint8).reshape(count, *self.shape[1:]))


def _head(file: Any) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    version = np.lib.format.read_magic(file)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    return read(file)


def _channels_first(images: NDArray[np.uint8]) -> Images:
    return images[:, None] if images.ndim == 3 else images.transpose(0, 3, 1, 2)


def _part(stored: _Stored, labels: NDArray[np.int64], loading: Loading) -> Part:
    height, width, *channels = stored.shape[1:]
    total = stored.shape[0]

    def load(chosen: Indices) -> tuple[Images, Indices]:
        digest = hashlib.sha256(repr((stored.key, stored.shape, stored.crc)).encode() + chosen.tobytes())

        def fill(images: Images) -> list[int]:
            order = np.argsort(chosen)
            for start, piece in stored.pieces():
                low, high = np.searchsorted(chosen[order], [start, start + len(piece)])
                images[order[low:high]] = piece[chosen[order[low:high]] - start]
                loading.tell("reading", start + len(piece), total)
            return []

        images, _ = cached(digest.hexdigest()[:32], (len(chosen), *(channels or [1]), height, width), fill)
        return images, chosen

    digests = np.empty(total, np.uint64)
    for start, piece in stored.pieces():
        for i, image in enumerate(piece):
            digests[start + i] = int.from_bytes(hashlib.blake2b(image.tobytes(), digest_size=8).digest())
        loading.tell("looking for copies", start + len(piece), total)
    return Part(labels, load, digests)
