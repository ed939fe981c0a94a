"""Images and labels in memory, split once: what every source becomes and every training run reads."""

from __future__ import annotations

import hashlib
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

    def take(self, indices: NDArray[np.intp]) -> Split:
        """The images at `indices`, copied."""
        return Split(self.images[indices], self.labels[indices])


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
        return min(self.train.images.shape[2:])

    def fingerprint(self) -> str:
        """16 hexadecimal digits of the content, to tell whether a resumed run has the same data."""
        digest = hashlib.sha256()
        for part in (self.train, self.validation, self.test):
            digest.update(repr(part.images.shape).encode())
            digest.update(np.ascontiguousarray(part.images[::7]).tobytes())
            digest.update(part.labels.tobytes())
        return digest.hexdigest()[:16]


def make_dataset(
    name: str,
    labelled: Split,
    test: Split | None,
    class_names: tuple[str, ...],
    *,
    seed: int,
    max_train: int,
    max_validation: int,
) -> Dataset:
    """Check the parts and split what is labelled, stratified by class, into train, validation and, if missing, test.

    A fifth of `labelled` becomes the validation part; before that a fifth becomes the test part where none is given.
    Both stay at that share; of the rest at most `max_train` images, and of the validation part at most
    `max_validation`, are kept, every class in its share.

    Raises:
        DataError: fewer than two classes, or a class with too few images to be in every part.
    """
    for part in (labelled, *([test] if test else [])):
        if len(part) and not 0 <= part.labels.min() <= part.labels.max() < len(class_names):
            raise DataError(f"{name}: labels must lie in 0..{len(class_names) - 1}, got {part.labels.max()}.")
    counts = np.bincount(labelled.labels, minlength=len(class_names))
    if (counts > 0).sum() < 2:
        raise DataError(f"{name}: at least two classes are needed, got {int((counts > 0).sum())}.")
    least = 3 if test is None else 2
    for label in np.flatnonzero(counts < least):
        raise DataError(
            f"{name}: class {class_names[label]!r} has {counts[label]} training images; at least {least} are needed, "
            "one for each part."
        )
    generator = np.random.default_rng(seed)
    if test is None:
        held_out, kept = stratified(labelled.labels, 0.2, generator)
        labelled, test = labelled.take(kept), labelled.take(held_out)
    held_out, kept = stratified(labelled.labels, 0.2, generator)
    train, validation = labelled.take(kept), labelled.take(held_out)
    return Dataset(
        name, at_most(train, max_train, generator), at_most(validation, max_validation, generator), test, class_names
    )


def stratified(
    labels: Labels, share: float, generator: np.random.Generator
) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Shuffled indices of `share` of each class, at least one of each and never all; and the other indices."""
    first, rest = [], []
    for label in np.unique(labels):
        members = generator.permutation(np.flatnonzero(labels == label))
        count = min(max(1, round(share * len(members))), max(1, len(members) - 1))
        first.append(members[:count])
        rest.append(members[count:])
    return generator.permutation(np.concatenate(first)), generator.permutation(np.concatenate(rest))


def at_most(part: Split, count: int, generator: np.random.Generator) -> Split:
    """`part`, or a stratified choice of about `count` of its images."""
    if len(part) <= count:
        return part
    chosen, _ = stratified(part.labels, count / len(part), generator)
    return part.take(chosen)
