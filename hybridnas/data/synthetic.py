"""The embedded default data set: procedural, deterministic, made in about a second, with nothing to download.

A class is a local texture *and* a long-range arrangement. An image holds a grating, whose orientation is the texture,
and a bright spot, both anywhere, some way apart; the direction from the spot to the grating is the arrangement. Patches
of one image, seen one by one or in any order, tell the texture but not the arrangement: spot and grating look alike in
all arrangements, and each of them may lie anywhere. The coarse layout tells the arrangement but not the texture, whose
stripes are a few pixels wide.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from hybridnas.data.dataset import Dataset, Split

Floats = NDArray[np.float32]

#: Orientations of the grating, in units of pi: the local textures.
TEXTURES = {"vertical": 0.0, "rising": 0.25, "horizontal": 0.5, "falling": 0.75}
#: Directions from the spot to the grating, in units of pi: the long-range arrangements.
ARRANGEMENTS = {"right": 0.0, "below": 0.5, "left": 1.0, "above": 1.5}

# Lengths are shares of the image's side.
WAVELENGTH = 0.13  # about 4 pixels at 32
GRATING_SIGMA = 0.10
SPOT_SIGMA = 0.06
MARGIN = 0.12  # of the centres, to the border
DISTANCE = (0.20, 0.60)  # from the spot to the grating: what near ones teach holds for far ones
TILT = 0.06  # standard deviation of the orientation, in units of pi: 4 % of the textures end up nearer to another
WOBBLE = 0.12  # standard deviation of the direction, in units of pi: likewise of the arrangements
CONTRAST = (0.2, 1.0)  # some images are easy, some hardly to be told: networks differ by how far they get
NOISE = 0.2  # standard deviation

NUM_CLASSES = len(TEXTURES) * len(ARRANGEMENTS)
#: Images to train on.
NUM_TRAIN = 1600


def synthetic_dataset(
    image_size: int, *, seed: int, num_train: int = NUM_TRAIN, num_validation: int = 1000, num_test: int = 2000
) -> Dataset:
    """Draw the three parts (uint8, (N, 3, image_size, image_size), 16 balanced classes) from independent streams."""
    streams = np.random.SeedSequence(seed).spawn(3)
    train, validation, test = (
        _draw(image_size, count, np.random.default_rng(stream))
        for count, stream in zip((num_train, num_validation, num_test), streams, strict=True)
    )
    names = tuple(f"{texture}-{arrangement}" for texture in TEXTURES for arrangement in ARRANGEMENTS)
    return Dataset("synthetic", train, validation, test, names)


def _draw(image_size: int, count: int, generator: np.random.Generator) -> Split:
    labels = generator.permutation(np.arange(count) % NUM_CLASSES)
    images = np.empty((count, 3, image_size, image_size), np.uint8)
    for start in range(0, count, 256):
        chunk = slice(start, min(start + 256, count))
        images[chunk] = _paint(image_size, labels[chunk], generator)
    return Split(images, labels.astype(np.int64))


def _paint(size: int, labels: NDArray[np.intp], generator: np.random.Generator) -> NDArray[np.uint8]:
    """(B, 3, size, size) for the labels (B,)."""
    count = len(labels)
    texture, arrangement = np.divmod(labels, len(ARRANGEMENTS))
    spot, grating = _centres(arrangement, generator)
    grey = _spot(size, spot, generator) + _grating(size, grating, texture, generator)
    tint = generator.uniform(0.7, 1.0, (count, 3, 1, 1)).astype(np.float32)
    noise = NOISE * generator.standard_normal((count, 3, size, size), np.float32)
    pixels = 127.5 + 80 * (grey[:, None] * tint + noise)
    return np.clip(pixels, 0, 255).astype(np.uint8)


def _centres(arrangement: NDArray[np.intp], generator: np.random.Generator) -> tuple[Floats, Floats]:
    """Centres (B, 2) of spot and grating, x and y in 0..1, both at least a margin from the border."""
    count = len(arrangement)
    direction = np.pi * (np.take(list(ARRANGEMENTS.values()), arrangement) + generator.normal(0, WOBBLE, count))
    offset = generator.uniform(*DISTANCE, count)[:, None] * np.stack([np.cos(direction), np.sin(direction)], 1)
    room = 1 - 2 * MARGIN - np.abs(offset)
    spot = MARGIN + np.maximum(-offset, 0) + generator.uniform(size=(count, 2)) * room
    return spot.astype(np.float32), (spot + offset).astype(np.float32)


def _spot(size: int, centre: Floats, generator: np.random.Generator) -> Floats:
    x, y = _around(centre, size)
    bump: Floats = np.exp(-(x**2 + y**2) / (2 * SPOT_SIGMA**2))
    return _contrast(len(centre), generator) * bump


def _grating(size: int, centre: Floats, texture: NDArray[np.intp], generator: np.random.Generator) -> Floats:
    x, y = _around(centre, size)
    count = len(centre)
    turns = np.take(list(TEXTURES.values()), texture) + generator.normal(0, TILT, count)
    angle = (np.pi * turns).astype(np.float32)[:, None, None]
    phase = generator.uniform(0, 2 * np.pi, (count, 1, 1)).astype(np.float32)
    wave = np.cos((x * np.cos(angle) + y * np.sin(angle)) * np.float32(2 * np.pi / WAVELENGTH) + phase)
    window: Floats = wave * np.exp(-(x**2 + y**2) / (2 * GRATING_SIGMA**2))
    return _contrast(count, generator) * window


def _around(centre: Floats, size: int) -> tuple[Floats, Floats]:
    """Coordinates (B, 1, size) and (B, size, 1) of the pixels, from the centres (B, 2)."""
    axis: Floats = ((np.arange(size) + 0.5) / size).astype(np.float32)
    return axis[None, None, :] - centre[:, 0, None, None], axis[None, :, None] - centre[:, 1, None, None]


def _contrast(count: int, generator: np.random.Generator) -> Floats:
    return generator.uniform(*CONTRAST, (count, 1, 1)).astype(np.float32)
