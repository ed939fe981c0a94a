"""How images are to be loaded, and the part of a data set whose images are encoded: files, rows, bytes."""

from __future__ import annotations

import hashlib
import io
import re
import warnings
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from hybridnas.data.cache import cached
from hybridnas.data.dataset import Dataset, Images, Indices, Labels, Part, make_dataset
from hybridnas.errors import DataError, first_clause

#: Goes into the keys of the cache: change it with what decoding gives.
VERSION = "1"
#: Bytes that are compared first.
BEGINNING = 4096
#: So many images are read ahead of what is written.
AHEAD = 256


R = TypeVar("R")


@dataclass(frozen=True)
class Loading:
    """How a source is to be loaded.

    Attributes:
        image_size: Pixels a side of decoded images.
        seed: Of the split.
        max_train: Images to train on, at most.
        max_bad: So many images that cannot be read are left out; one more is an error.
        tell: Told what is done, how many of how many.
        bad: Where the names of images that cannot be read are gathered, with the reasons.
    """

    image_size: int
    seed: int = 0
    max_train: int = 4000
    max_bad: int = 10
    tell: Callable[[str, int, int], None] = lambda doing, done, total: None
    bad: list[str] = field(default_factory=list)

    def leave_out(self, name: str, reason: str) -> None:
        """Note an image that cannot be read.

        Raises:
            DataError: it is one too many.
        """
        self.bad.append(f"{name} ({reason})")
        if len(self.bad) > self.max_bad:
            more = f", after {self.max_bad} others" if self.max_bad else ""
            raise DataError(
                f"{name} cannot be read as an image: {reason}{more}; mend or remove it, or allow more by --max-bad."
            )


@dataclass(frozen=True)
class Source:
    """A data set that was found and listed. `native_size` is the shorter side of its images, None where any will do."""

    name: str
    native_size: int | None
    load: Callable[[Loading], Dataset]


class Pictures(Protocol):
    """Encoded images, numbered from 0."""

    def __len__(self) -> int:
        """How many."""

    def name(self, i: int) -> str:
        """What a person calls one."""

    def read(self, i: int, most: int = -1) -> bytes:
        """The bytes of one, or the first `most`, in a format that PIL reads.

        Raises:
            OSError: it cannot be read.
        """

    def sizes(self) -> Sequence[int] | None:
        """Bytes of each; None where finding out would mean to read them all: then nobody looks for copies."""


def encoded_dataset(
    name: str, labelled: Sequence[tuple[Pictures, Labels]], class_names: tuple[str, ...], loading: Loading
) -> Dataset:
    """A data set of encoded images.

    Args:
        name: Of the data set.
        labelled: The images to train on with their labels (N,), and those of the test part, if there is one.
        class_names: What the labels stand for.
        loading: How.

    Raises:
        DataError: labels that cannot be split, or too many images that cannot be read.
    """
    digests = content_digests([pictures for pictures, _ in labelled], loading)
    train, *test = (
        encoded_part(pictures, labels, loading, same)
        for (pictures, labels), same in zip(labelled, digests, strict=True)
    )
    dataset = make_dataset(
        name, train, test[0] if test else None, class_names, seed=loading.seed, max_train=loading.max_train
    )
    if not loading.bad:
        return dataset
    left_out = f"{len(loading.bad)} images cannot be read and are left out: {', '.join(loading.bad)}"
    return replace(dataset, notes=(left_out, *dataset.notes))


def encoded_part(pictures: Pictures, labels: Labels, loading: Loading, digests: NDArray[np.uint64] | None) -> Part:
    """A part whose images are decoded when they are asked for, in parallel, and kept in the cache."""

    def load(chosen: Indices) -> tuple[Images, Indices]:
        key, unread = _content_key(pictures, chosen, loading)
        shape = (len(chosen), 3, loading.image_size, loading.image_size)
        reasons: dict[int, str] = {}

        def fill(images: Images) -> list[int]:
            decode = partial(_decode, pictures, unread, size=loading.image_size)
            for position, found in enumerate(_ahead(decode, chosen)):
                if isinstance(found, str):
                    reasons[position] = found
                    loading.leave_out(pictures.name(int(chosen[position])), found)
                else:
                    images[position] = found
                loading.tell("decoding", position + 1, len(chosen))
            return list(reasons)

        images, filled = cached(key, shape, fill)
        for position in np.setdiff1d(np.arange(len(chosen)), filled):
            if position not in reasons:  # known from an earlier run
                loading.leave_out(pictures.name(int(chosen[position])), "as before")
        return images, chosen[filled]

    return Part(labels, load, digests)


def content_digests(every: Sequence[Pictures], loading: Loading) -> list[NDArray[np.uint64] | None]:
    """For each of several sets of pictures (N,), numbers that are equal where the bytes are; None without sizes.

    Only pictures of one size are read, and whole only those whose beginnings are alike.
    """
    places = [(pictures, i) for pictures in every for i in range(len(pictures))]
    sizes = [pictures.sizes() for pictures in every]
    if any(found is None for found in sizes):
        return [None] * len(every)
    keys = [hash(size) for found in sizes for size in found or ()]
    for most in (BEGINNING, -1):
        alike = _alike(keys)
        digests = _ahead(partial(_digest, places, most), alike)
        for done, (k, digest) in enumerate(zip(alike, digests, strict=True), 1):
            keys[k] = hash((keys[k], digest))
            loading.tell("looking for copies", done, len(alike))
    found = np.array(keys, np.int64).view(np.uint64)
    return [*np.split(found, np.cumsum([len(pictures) for pictures in every])[:-1])]


def _alike(keys: Sequence[int]) -> list[int]:
    """The positions of keys that stand more than once."""
    _, group, counts = np.unique(np.array(keys, np.int64), return_inverse=True, return_counts=True)
    return [int(k) for k in np.flatnonzero(counts[group] > 1)]


def _digest(places: Sequence[tuple[Pictures, int]], most: int, k: int) -> int:
    pictures, i = places[k]
    try:
        content = pictures.read(i, most)
    except OSError:
        return hash((id(pictures), i))  # like no other; decoding will say what is wrong with it
    return int.from_bytes(hashlib.blake2b(content, digest_size=7).digest())


def _content_key(pictures: Pictures, chosen: Indices, loading: Loading) -> tuple[str, set[int]]:
    """What the decoded images are kept under, and the numbers of those that cannot be read."""
    digest = hashlib.sha256(f"{VERSION} {loading.image_size}".encode())
    unread = set()
    contents = _ahead(partial(_read, pictures), chosen)
    for position, (i, content) in enumerate(zip(chosen.tolist(), contents, strict=True), 1):
        digest.update(hashlib.blake2b(content, digest_size=16).digest())
        if not content:
            unread.add(i)
        loading.tell("reading", position, len(chosen))
    return digest.hexdigest()[:32], unread


def _read(pictures: Pictures, i: int) -> bytes:
    try:
        return pictures.read(i)
    except OSError:
        return b""


def _decode(pictures: Pictures, unread: Collection[int], i: int, size: int) -> NDArray[np.uint8] | str:
    """(3, size, size), or why there is none.

    Raises:
        DataError: it cannot be read now and could before: what is left out is kept as left out.
    """
    try:
        content = pictures.read(i)
    except OSError as error:
        if i not in unread:
            raise DataError(
                f"{pictures.name(i)} could be read, and then not: {first_clause(error)}; try again."
            ) from None
        return str(error).partition("\n")[0].rstrip(".") or type(error).__name__
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(content)) as image:
                return square(image, size)
    except MemoryError:  # not the image's fault, and what is left out is kept as left out
        raise
    except Exception as error:  # in a damaged file, or what a camera wrote into it, Pillow stumbles in any way
        reason = re.sub(r" ?<_io.BytesIO object at \w+>", "", str(error).partition("\n")[0]).rstrip(".")
        return reason or type(error).__name__


def square(image: Image.Image, size: int) -> NDArray[np.uint8]:
    """(3, size, size): upright, RGB, the shorter side scaled to `size`, the longer one cropped centrally."""
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I"):  # 16 bits a pixel; PIL's own conversion to RGB would clip them
        image = Image.fromarray((np.asarray(image, np.uint32) >> 8).astype(np.uint8))
    image = ImageOps.fit(image.convert("RGB"), (size, size), Image.Resampling.BILINEAR)
    return np.asarray(image).transpose(2, 0, 1)


def _ahead(work: Callable[[int], R], numbers: Sequence[int] | Indices) -> Iterator[R]:
    """The results in order, worked on in parallel, a bounded number ahead of who takes them."""
    with ThreadPoolExecutor() as pool:
        for start in range(0, len(numbers), AHEAD):
            yield from pool.map(work, map(int, numbers[start : start + AHEAD]))
