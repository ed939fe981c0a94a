"""Images and labels in memory, split once: what every source becomes and every training run reads."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hybridnas.errors import DataError

Images = NDArray[np.uint8]  # (N, C, H, W), C is 1 or 3
Labels = NDArray[np.int64]  # (N,)


@dataclass(frozen=True)
class Split:
    """Images (N, C, H, W) and labels (N,) of one part."""

    images: Images
    labels: Labels

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class Dataset:
    """Three disjoint parts. `train` and `validation` drive the search; `test` is looked at once, at its end."""

    name: str
    train: Split
    validation: Split
    test: Split
    class_names: tuple[str, ...]

    @property
    def num_classes(self) -> int:
        """How many classes there are."""
        return len(self.class_names)

    @property
    def image_size(self) -> int:
        """Pixels along the shorter side."""
        return int(min(self.train.images.shape[2:]))

    def fingerprint(self) -> str:
        """16 hexadecimal digits of the content, to tell whether a resumed run has the same data."""
        digest = hashlib.sha256()
        for part in (self.train, self.validation, self.test):
            digest.update(repr(part.images.shape).encode())
            digest.update(np.ascontiguousarray(part.images[::7]).tobytes())
            digest.update(part.labels.tobytes())
        return digest.hexdigest()[:16]


@dataclass(frozen=True)
class Part:
    """Labels (N,) of images that are not in memory yet; `load(indices)` returns those images (n, C, H, W)."""

    labels: Labels
    load: Callable[[NDArray[np.intp]], Images]

    def split(self, indices: NDArray[np.intp]) -> Split:
        """Load the images at `indices`."""
        return Split(self.load(indices), self.labels[indices])


def make_dataset(
    name: str,
    labelled: Part,
    test: Part | None,
    class_names: tuple[str, ...],
    *,
    seed: int,
    max_train: int,
    max_validation: int = 2_000,
    max_test: int = 10_000,
) -> Dataset:
    """Check the labels, split them by class into train, validation and, if missing, test, and load what is used.

    A fifth of `labelled` is held out for validation; before that a fifth for the test where none is given. Of each part
    at most so many images are loaded, every class in its share.

    Raises:
        DataError: fewer than two classes, a class with too few images to be in every part, or a label out of range.
    """
    for labels in (labelled.labels, *([test.labels] if test else [])):
        for label in labels[(labels < 0) | (labels >= len(class_names))][:1]:
            raise DataError(f"{name}: labels must lie in 0..{len(class_names) - 1}, got {label}.")
    counts = np.bincount(labelled.labels, minlength=len(class_names))
    if (counts > 0).sum() < 2:
        raise DataError(f"{name}: at least two classes are needed, got {int((counts > 0).sum())}.")
    least = 3 if test is None else 2
    for label in np.flatnonzero(counts < least):
        raise DataError(
            f"{name}: class {class_names[label]!r} has {counts[label]} training images; it needs at least {least}, "
            "one for each part."
        )
    generator = np.random.default_rng(seed)
    rest = np.arange(len(labelled.labels))
    if test is None:
        test_indices, rest = stratified(labelled.labels, rest, 0.2, generator)
        test = Part(labelled.labels, labelled.load)
    else:
        test_indices = np.arange(len(test.labels))
    validation, train = stratified(labelled.labels, rest, 0.2, generator)

    def limited(part: Part, indices: NDArray[np.intp], most: int) -> Split:
        if len(indices) > most:
            indices, _ = stratified(part.labels, indices, most / len(indices), generator)
        return part.split(indices)

    return Dataset(
        name,
        limited(labelled, train, max_train),
        limited(labelled, validation, max_validation),
        limited(test, test_indices, max_test),
        class_names,
    )


def stratified(
    labels: Labels, indices: NDArray[np.intp], share: float, generator: np.random.Generator
) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Shuffle `indices` and part them: `share` of each class, at least one and never all of it; and the others."""
    first, rest = [], []
    for label in np.unique(labels[indices]):
        members = generator.permutation(indices[labels[indices] == label])
        count = min(max(1, round(share * len(members))), max(1, len(members) - 1))
        first.append(members[:count])
        rest.append(members[count:])
    return generator.permutation(np.concatenate(first)), generator.permutation(np.concatenate(rest))
