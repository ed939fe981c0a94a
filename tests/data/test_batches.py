from __future__ import annotations

import numpy as np
import torch
from torch import nn

from hybridnas.data.batches import Batches, channel_statistics, layout, resize
from hybridnas.data.dataset import Split

CPU = torch.device("cpu")


def split(count: int, size: int = 8, channels: int = 3) -> Split:
    generator = np.random.default_rng(0)
    images = generator.integers(0, 256, (count, channels, size, size), dtype=np.uint8)
    return Split(images, np.arange(count, dtype=np.int64))


def test_an_epoch_holds_each_image_once_and_is_normalised() -> None:
    part = split(64)
    mean, std = channel_statistics(part)
    batches = Batches(part, 8, CPU, mean, std)
    seen = list(batches.shuffled(16, torch.Generator().manual_seed(0), nn.Identity()))
    assert sorted(torch.cat([labels for _, labels in seen]).tolist()) == list(range(64))
    pixels = torch.cat([images for images, _ in seen])
    torch.testing.assert_close(pixels.mean((0, 2, 3)), torch.zeros(3), atol=1e-4, rtol=0)
    torch.testing.assert_close(pixels.std((0, 2, 3)), torch.ones(3), atol=1e-2, rtol=0)
    images, labels = seen[0]
    expected = (torch.from_numpy(part.images).float()[labels] - mean.view(3, 1, 1)) / std.view(3, 1, 1)
    torch.testing.assert_close(images, expected)


def test_a_batch_is_augmented_as_a_whole_and_grey_becomes_three_channels() -> None:
    part = split(400, channels=1)
    batches = Batches(part, 8, CPU, torch.zeros(1), torch.ones(1))
    images, labels = next(batches.shuffled(400, torch.Generator().manual_seed(0), lambda images: images.flip(3)))
    assert images.shape == (400, 3, 8, 8) and torch.equal(images[:, 0], images[:, 2])
    original = torch.from_numpy(part.images).float()[labels].expand(-1, 3, -1, -1)
    torch.testing.assert_close(images, original.flip(3))


def test_a_part_smaller_than_a_batch_is_one_batch() -> None:
    batches = Batches(split(5), 8, CPU, torch.zeros(3), torch.ones(3))
    assert [len(y) for _, y in batches.shuffled(64, torch.Generator(), nn.Identity())] == [5]


def test_small_images_lie_contiguous_on_a_gpu_and_all_others_channels_last() -> None:
    assert layout(torch.device("cuda"), 64) == torch.contiguous_format
    assert layout(torch.device("cuda"), 96) == layout(CPU, 32) == torch.channels_last
    images, _ = next(Batches(split(8), 8, CPU, torch.zeros(3), torch.ones(3)).in_order(8))
    assert images.is_contiguous(memory_format=torch.channels_last)


def test_resize_keeps_constants_and_crops_the_longer_side() -> None:
    images = torch.zeros(2, 3, 10, 20, dtype=torch.uint8)
    images[:, :, :, 5:15] = 90  # the central square
    assert torch.equal(resize(images, 10), images[:, :, :, 5:15])
    assert (resize(images, 5)[:, :, :, 1:4] == 90).all()
    assert resize(images, 20).shape == (2, 3, 20, 20)
