"""Batches from memory: a whole batch is augmented and normalised at once, on the device."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from hybridnas.data.dataset import Split

#: The largest images, in pixels, that lie contiguous on a GPU: there, cuDNN compiles a kernel for each channels-last
#: depthwise convolution, 1 to 8 s in a network's first step, and its steps are no quicker (measured at 32 px,
#: experiments/cuda).
SMALL = 64


class Batches:
    """One part of a data set at one image size, on one device, as uint8.

    Args:
        part: Images (N, C, H, W) and labels (N,).
        image_size: Images are resized to it (bilinear, antialiased) when they are loaded.
        device: Where the images lie and the batches are made.
        mean: Of each channel, in 0..255.
        std: Of each channel, in 0..255.
    """

    def __init__(self, part: Split, image_size: int, device: torch.device, mean: Tensor, std: Tensor) -> None:
        self.images = resize(torch.from_numpy(part.images), image_size).to(device)
        self.labels = torch.from_numpy(part.labels).to(device)
        self.mean = mean.to(device).view(1, -1, 1, 1)
        self.std = std.to(device).view(1, -1, 1, 1)
        self.layout = layout(device, image_size)

    def __len__(self) -> int:
        return len(self.labels)

    def shuffled(
        self, batch_size: int, generator: torch.Generator, augment: Callable[[Tensor], Tensor]
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """One epoch of whole batches in random order: (B, 3, H, W) float, (B,) int64.

        A part smaller than a batch makes one batch of all its images. `augment` maps uint8 (B, C, H, W) to the like.
        """
        count = len(self)
        order = torch.randperm(count, generator=generator)
        size = min(batch_size, count)
        for start in range(0, count - size + 1, size):
            chosen = order[start : start + size].to(self.images.device)
            yield self._normal(augment(self.images[chosen])), self.labels[chosen]

    def in_order(self, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """All images once, in order, as they are."""
        for start in range(0, len(self), batch_size):
            yield self._normal(self.images[start : start + batch_size]), self.labels[start : start + batch_size]

    def _normal(self, images: Tensor) -> Tensor:
        normal = (images.float() - self.mean) / self.std
        return normal.expand(-1, 3, -1, -1).contiguous(memory_format=self.layout)


def layout(device: torch.device, image_size: int) -> torch.memory_format:
    """How images and the networks trained on them lie in memory: channels last, or contiguous where that is quicker."""
    return torch.contiguous_format if device.type == "cuda" and image_size <= SMALL else torch.channels_last


def channel_statistics(part: Split) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of each channel (C,), in 0..255, over all images of `part`, or every nth of many.

    (Of more than 2,000 these are 2,000 to 3,999.)
    """
    sample = part.images[:: max(1, len(part) // 2000)].astype(np.float32)
    mean, std = sample.mean((0, 2, 3)), sample.std((0, 2, 3))
    return torch.from_numpy(mean), torch.from_numpy(np.maximum(std, 1.0))


def resize(images: Tensor, size: int) -> Tensor:
    """uint8 (N, C, H, W) to (N, C, size, size), the shorter side scaled to `size` and the longer cropped centrally."""
    height, width = images.shape[2:]
    if (height, width) != (size, size):
        scale = size / min(height, width)
        target = (max(size, round(height * scale)), max(size, round(width * scale)))
        parts = [
            F.interpolate(chunk.float(), target, mode="bilinear", antialias=True).round_().clamp_(0, 255).byte()
            for chunk in images.split(256)
        ]
        images = torch.cat(parts)
        top, left = (target[0] - size) // 2, (target[1] - size) // 2
        images = images[:, :, top : top + size, left : left + size]
    return images.contiguous()
