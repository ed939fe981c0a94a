"""Images and labels, split once: what every source becomes and every training run reads."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from hybridnas.errors import DataError

Images = NDArray[np.uint8]  # (N, C, H, W), C is 1 or 3; in memory, or mapped from the cache
Labels = NDArray[np.int64]  # (N,)
Indices = NDArray[np.intp]  # (n,)

#: Where the largest class has over so many times the images of the smallest, accuracy is the mean of the classes'.
IMBALANCED = 3.0


@dataclass(frozen=True)
class Split:
    """Images (N, C, H, W) and labels (N,) of one part."""

    images: Images
    labels: Labels

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class Dataset:
    """Three disjoint parts. `train` and `validation` drive the search; `test` is looked at once, at its end.

    `notes` are sentences for whoever trains on it: files that were left out, duplicates, classes of unequal size.
    """

    name: str
    train: Split
    validation: Split
    test: Split
    class_names: tuple[str, ...]
    notes: tuple[str, ...] = ()

    @property
    def num_classes(self) -> int:
        """How many classes there are."""
        return len(self.class_names)

    @property
    def image_size(self) -> int:
        """Pixels along the shorter side."""
        return int(min(self.train.images.shape[2:]))

    @property
    def is_balanced(self) -> bool:
        """Whether plain accuracy is fair to the classes: else it is the mean of the classes' (balanced accuracy)."""
        counts = np.bincount(self.train.labels, minlength=self.num_classes)
        return bool(counts.max() <= IMBALANCED * counts.min())

    @property
    def num_weighed(self) -> float:
        """How many validation images, all weighed alike, would leave accuracy as open as these do.

        The mean of the classes' is as open as its small classes make it.
        """
        if self.is_balanced:
            return len(self.validation)
        counts = np.bincount(self.validation.labels, minlength=self.num_classes)
        present = counts[counts > 0]
        return float(len(present) ** 2 / (1 / present).sum())

    def fingerprint(self) -> str:
        """16 hexadecimal digits of the content, to tell whether a resumed run has the same data."""
        return self._fingerprint

    @cached_property
    def _fingerprint(self) -> str:
        digest = hashlib.sha256()
        for part in (self.train, self.validation, self.test):
            digest.update(repr(part.images.shape).encode())
            for start in range(0, len(part), 7 * 512):  # the images may be more than the memory holds
                digest.update(part.images[start : start + 7 * 512 : 7].tobytes())
            digest.update(part.labels.tobytes())
        return digest.hexdigest()[:16]


@dataclass(frozen=True)
class Part:
    """What is known of images before any is decoded.

    Attributes:
        labels: (N,).
        load: From indices (n,) to images (m, C, H, W) and which m of the indices could be read.
        digests: (N,), equal where the images' bytes are; None where all are known to differ.
    """

    labels: Labels
    load: Callable[[Indices], tuple[Images, Indices]]
    digests: NDArray[np.uint64] | None = None

    @property
    def identities(self) -> NDArray[np.uint64]:
        """(N,), equal for images that are the same."""
        return np.arange(len(self.labels), dtype=np.uint64) if self.digests is None else self.digests

    def split(self, indices: Indices) -> Split:
        """Load the images at `indices`, less those that cannot be read."""
        images, readable = self.load(indices)
        return Split(images, self.labels[readable])


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
    at most so many images are loaded, every class in its share. Images that are the same stay on one side; those that
    stand in a given test, too, are not trained on.

    Raises:
        DataError: fewer than two classes, a class with too few images to be in every part, or a label out of range.
    """
    for labels in (labelled.labels, *([test.labels] if test else [])):
        for label in labels[(labels < 0) | (labels >= len(class_names))][:1]:
            raise DataError(f"{name}: labels must lie in 0..{len(class_names) - 1}, got {label}.")
    if test is not None and not len(test.labels):
        test = None
    notes: list[str] = []
    rest = np.arange(len(labelled.labels))
    if test is not None and test.digests is not None:
        leaked = np.isin(labelled.identities, test.digests)
        if leaked.any():
            notes.append(f"{leaked.sum()} training images stand in the test part, too, and are left out")
            rest = rest[~leaked]
    first, members = _distinct(labelled.identities, rest)
    if len(first) < len(rest):
        notes.append(f"{len(rest) - len(first)} images are copies of others and stay on their side")
    _check_classes(name, labelled.labels[first], class_names, least=3 if test is None else 2)

    generator = np.random.default_rng(seed)
    if test is None:
        held_out, first = stratified(labelled.labels, first, 0.2, generator)
        test, test_indices = labelled, members(held_out)
    else:
        test_indices = np.arange(len(test.labels))
    validation, train = (members(side) for side in stratified(labelled.labels, first, 0.2, generator))

    def limited(part: Part, indices: Indices, most: int) -> Split:
        if len(indices) > most:
            indices, _ = stratified(part.labels, indices, most / len(indices), generator)
        return part.split(indices)

    dataset = Dataset(
        name,
        limited(labelled, train, max_train),
        limited(labelled, validation, max_validation),
        limited(test, test_indices, max_test),
        class_names,
    )
    for which, part in (("validation", dataset.validation), ("test", dataset.test)):
        if not len(part):
            raise DataError(f"{name}: no image of the {which} part can be read.")
    counts = np.bincount(dataset.train.labels, minlength=len(class_names))
    if not counts.all():
        raise DataError(f"{name}: no image of class {class_names[int(counts.argmin())]!r} is left to train on.")
    if not dataset.is_balanced:
        large, small = int(counts.argmax()), int(counts.argmin())
        notes.append(
            f"classes are of unequal size ({class_names[large]!r} {counts[large]} training images, "
            f"{class_names[small]!r} {counts[small]}): accuracy is the mean of the classes'"
        )
    return Dataset(name, dataset.train, dataset.validation, dataset.test, class_names, tuple(notes))


def _distinct(identities: NDArray[np.uint64], indices: Indices) -> tuple[Indices, Callable[[Indices], Indices]]:
    """One index for each different image, and a function from some of these to all that are the same as they."""
    _, first, group = np.unique(identities[indices], return_index=True, return_inverse=True)
    if len(first) == len(indices):
        return indices, lambda chosen: chosen
    of_group = indices[first]

    def members(chosen: Indices) -> Indices:
        found: Indices = np.concatenate([chosen, indices[np.isin(of_group[group], chosen) & ~np.isin(indices, chosen)]])
        return found

    return np.sort(of_group), members


def _check_classes(name: str, labels: Labels, class_names: tuple[str, ...], *, least: int) -> None:
    counts = np.bincount(labels, minlength=len(class_names))
    if (counts > 0).sum() < 2:
        raise DataError(f"{name}: at least two classes are needed, got {int((counts > 0).sum())}.")
    for label in np.flatnonzero(counts < least):
        raise DataError(
            f"{name}: class {class_names[label]!r} has {counts[label]} different training images; it needs at least "
            f"{least}, one for each part."
        )


def stratified(
    labels: Labels, indices: Indices, share: float, generator: np.random.Generator
) -> tuple[Indices, Indices]:
    """Shuffle `indices` and part them: `share` of each class, at least one and never all of it; and the others."""
    first, rest = [], []
    for label in np.unique(labels[indices]):
        members = generator.permutation(indices[labels[indices] == label])
        count = min(max(1, round(share * len(members))), max(1, len(members) - 1))
        first.append(members[:count])
        rest.append(members[count:])
    return generator.permutation(np.concatenate(first)), generator.permutation(np.concatenate(rest))
