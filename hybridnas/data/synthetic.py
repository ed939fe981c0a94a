"""The embedded default data set: procedural, deterministic, made in about a second, with nothing to download.

A class is a local texture *and* a long-range arrangement. An image holds two patches of the class's texture, placed
beside, above or diagonal to each other, far apart, anywhere in the image, and two distractors of other textures. Who
sees only patches knows the texture but not the arrangement; who sees only the coarse layout finds four alike blobs.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from hybridnas.data.dataset import Dataset, Split

#: Grating orientations, in units of pi: the local textures.
ORIENTATIONS = (0.0, 0.25, 0.5, 0.75)
#: Directions from the first patch of the pair to the second, in units of pi: the long-range arrangements.
ARRANGEMENTS = (0.0, 0.25, 0.5, 0.75)

WAVELENGTH = 0.13  # of the image's side: about 4 pixels at 32
PATCH_RADIUS = 0.12
DISTANCE = (0.42, 0.52)  # between the two patches of the pair
NOISE = 0.35


def synthetic_dataset(
    image_size: int, *, seed: int, num_train: int = 4000, num_validation: int = 1000, num_test: int = 2000
) -> Dataset:
    """Draw the three parts (uint8, (N, 3, image_size, image_size), 16 balanced classes) from independent streams."""
    streams = np.random.SeedSequence(seed).spawn(3)
    train, validation, test = (
        _draw(image_size, count, np.random.default_rng(stream))
        for count, stream in zip((num_train, num_validation, num_test), streams, strict=True)
    )
    names = tuple(f"texture{t}-{a}" for t in range(len(ORIENTATIONS)) for a in ("beside", "falling", "above", "rising"))
    return Dataset("synthetic", train, validation, test, names)


def _draw(image_size: int, count: int, generator: np.random.Generator) -> Split:
    num_classes = len(ORIENTATIONS) * len(ARRANGEMENTS)
    labels = generator.permutation(np.arange(count) % num_classes)
    images = np.empty((count, 3, image_size, image_size), np.uint8)
    for start in range(0, count, 256):
        chunk = slice(start, min(start + 256, count))
        images[chunk] = _paint(image_size, labels[chunk], generator)
    return Split(images, labels.astype(np.int64))


def _paint(size: int, labels: NDArray[np.intp], generator: np.random.Generator) -> NDArray[np.uint8]:
    """(B, 3, size, size) for the labels (B,)."""
    count = len(labels)
    texture, arrangement = np.divmod(labels, len(ARRANGEMENTS))
    centres = _centres(arrangement, generator)  # (B, 4, 2)
    others = (texture[:, None] + _two_others(count, generator)) % len(ORIENTATIONS)
    textures = np.concatenate([texture[:, None], texture[:, None], others], axis=1)  # (B, 4)

    axis = (np.arange(size, dtype=np.float32) + 0.5) / size
    x = axis[None, None, None, :] - centres[:, :, 0, None, None]
    y = axis[None, None, :, None] - centres[:, :, 1, None, None]
    angle = np.pi * (np.take(ORIENTATIONS, textures) + generator.normal(0, 0.03, textures.shape))[..., None, None]
    phase = generator.uniform(0, 2 * np.pi, (count, 4, 1, 1))
    contrast = generator.uniform(0.6, 1.0, (count, 4, 1, 1))
    wave = np.cos((x * np.cos(angle) + y * np.sin(angle)) * (2 * np.pi / WAVELENGTH) + phase)
    window = np.exp(-(x**2 + y**2) / (2 * (PATCH_RADIUS * 0.75) ** 2))
    grey = (contrast * window * wave).sum(1)  # (B, size, size)

    tint = generator.uniform(0.7, 1.0, (count, 3, 1, 1))
    noise = generator.normal(0, NOISE, (count, 3, size, size))
    return np.clip(127.5 + 80 * (grey[:, None] * tint + noise), 0, 255).astype(np.uint8)


def _centres(arrangement: NDArray[np.intp], generator: np.random.Generator) -> NDArray[np.float32]:
    """Centres (B, 4, 2) of the pair and the two distractors, in 0..1."""
    count = len(arrangement)
    direction = np.pi * (np.take(ARRANGEMENTS, arrangement) + generator.normal(0, 0.02, count))
    offset = generator.uniform(*DISTANCE, count)[:, None] * np.stack([np.cos(direction), np.sin(direction)], 1) / 2
    room = 0.5 - np.abs(offset) - PATCH_RADIUS
    middle = 0.5 + generator.uniform(-1, 1, (count, 2)) * room
    distractors = generator.uniform(PATCH_RADIUS, 1 - PATCH_RADIUS, (count, 2, 2))
    return np.concatenate([(middle - offset)[:, None], (middle + offset)[:, None], distractors], 1).astype(np.float32)


def _two_others(count: int, generator: np.random.Generator) -> NDArray[np.intp]:
    """Two different steps (B, 2) to other textures."""
    return np.argsort(generator.random((count, len(ORIENTATIONS) - 1)), axis=1)[:, :2] + 1
